"""The deliveries of one endpoint in the outbox, oldest event first.

Every change is one statement or one transaction and writes absolute values, so a change whose commit failed can be
repeated.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from llm_policy.ledger.database import FILE_NAME, open_database, transaction
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
    """A delivery to attempt. Times are Unix times; `num_attempts` counts the failed attempts so far."""

    sequence: int
    event: Event
    num_attempts: int
    first_attempt_ns: int | None
    next_attempt_ns: int


class DeliveryOutcome(NamedTuple):
    """The delivery's state after an attempt. Times are Unix times."""

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
        """The oldest pending delivery, if any."""
        row = self._connection.execute(_HEAD, (self._endpoint,)).fetchone()
        return PendingDelivery(row[0], Event(*row[1:5]), *row[5:]) if row else None

    def record(self, delivery: PendingDelivery, outcome: DeliveryOutcome) -> None:
        """Store the outcome of an attempt. No row is ever deleted."""
        values = (
            delivery.num_attempts + 1,
            delivery.first_attempt_ns or outcome.started_ns,
            outcome.state,
            outcome.next_attempt_ns,
            outcome.error,
            outcome.ended_ns if outcome.state == "delivered" else None,
            self._endpoint,
            delivery.sequence,
        )
        if not outcome.disables_endpoint:
            self._connection.execute(_RECORD, values)
            return
        with transaction(self._connection):  # nothing more is sent until a replay
            self._connection.execute(_RECORD, values)
            disabled = (self._endpoint, outcome.ended_ns, outcome.error)
            self._connection.execute("INSERT OR REPLACE INTO disabled_endpoint VALUES (?, ?, ?)", disabled)
            self._connection.execute(_FAIL_ALL, {"endpoint": self._endpoint})

    def is_disabled(self) -> bool:
        """Whether the receiver answered 410 Gone and nothing was replayed since."""
        query = "SELECT 1 FROM disabled_endpoint WHERE endpoint = ?"
        return self._connection.execute(query, (self._endpoint,)).fetchone() is not None

    def fail_pending(self) -> int:
        """Mark all pending deliveries failed unless a replay enabled the endpoint again; returns their number."""
        return self._connection.execute(_FAIL_ALL, {"endpoint": self._endpoint}).rowcount


def open_outbox(state_dir: Path) -> sqlite3.Connection:
    """A new connection, in autocommit mode, to the ledger in `state_dir`. The stubs and the parent create the file.

    Raises:
        sqlite3.Error: the file is missing or can't be opened.
    """
    return open_database(state_dir / FILE_NAME, must_exist=True)
