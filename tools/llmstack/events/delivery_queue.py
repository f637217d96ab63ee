"""The deliveries of one endpoint, oldest event first, as they stand in the outbox.

Every change is one statement or one transaction, says what the row shall be and not how it differs, and can be
repeated: a change whose commit failed is simply made again.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from llm_policy.ledger.database import transaction
from llm_policy.ledger.outbox import Event

_HEAD = """
SELECT event_sequence, event.id, event.type, event.time_ns, event.body, attempts, first_attempt_ns, next_attempt_ns
FROM delivery JOIN event ON event.sequence = delivery.event_sequence
WHERE endpoint = ? AND state = 'pending' ORDER BY event_sequence LIMIT 1
"""
_RECORD = """
UPDATE delivery SET attempts = ?, first_attempt_ns = ?, state = ?, next_attempt_ns = ?, last_error = ?, delivered_ns = ?
WHERE endpoint = ? AND event_sequence = ? AND state = 'pending'
"""
_FAIL_ALL = """
UPDATE delivery SET state = 'failed', last_error = disabled_endpoint.reason FROM disabled_endpoint
WHERE delivery.endpoint = :endpoint AND disabled_endpoint.endpoint = :endpoint AND state = 'pending'
"""


class PendingDelivery(NamedTuple):
    """The delivery whose turn it is. Times are Unix times; `num_attempts` are those that failed."""

    sequence: int
    event: Event
    num_attempts: int
    first_attempt_ns: int | None
    next_attempt_ns: int


class DeliveryOutcome(NamedTuple):
    """What an attempt makes of its delivery. Times are Unix times."""

    state: str
    started_ns: int
    ended_ns: int
    error: str = ""
    next_attempt_ns: int = 0
    disables_endpoint: bool = False


class DeliveryQueue:
    """One endpoint's deliveries. Every method may raise sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection, endpoint: str) -> None:
        self._connection = connection
        self._endpoint = endpoint

    def head(self) -> PendingDelivery | None:
        """The oldest pending delivery; None when nothing waits."""
        row = self._connection.execute(_HEAD, (self._endpoint,)).fetchone()
        return PendingDelivery(row[0], Event(*row[1:5]), *row[5:]) if row else None

    def record(self, head: PendingDelivery, outcome: DeliveryOutcome) -> None:
        """Write down what became of an attempt to deliver `head`. No row is ever deleted."""
        values = (
            head.num_attempts + 1,
            head.first_attempt_ns or outcome.started_ns,
            outcome.state,
            outcome.next_attempt_ns,
            outcome.error,
            outcome.ended_ns if outcome.state == "delivered" else None,
            self._endpoint,
            head.sequence,
        )
        if not outcome.disables_endpoint:
            self._connection.execute(_RECORD, values)
            return
        with transaction(self._connection):  # nothing more is sent until somebody replays
            self._connection.execute(_RECORD, values)
            disabled = (self._endpoint, outcome.ended_ns, outcome.error)
            self._connection.execute("INSERT OR REPLACE INTO disabled_endpoint VALUES (?, ?, ?)", disabled)
            self._connection.execute(_FAIL_ALL, {"endpoint": self._endpoint})

    def is_disabled(self) -> bool:
        """Whether its receiver wants no more events."""
        query = "SELECT 1 FROM disabled_endpoint WHERE endpoint = ?"
        return self._connection.execute(query, (self._endpoint,)).fetchone() is not None

    def fail_pending(self) -> int:
        """Fail what waits, unless the endpoint was enabled again meanwhile; returns how many."""
        return self._connection.execute(_FAIL_ALL, {"endpoint": self._endpoint}).rowcount
