"""Queues deliveries again under the same event ids."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from llm_policy.ledger.database import transaction

_OF_EVENT = """
SELECT endpoint, event_sequence FROM delivery JOIN event ON event.sequence = event_sequence
WHERE event.id = :id AND (:endpoint IS NULL OR endpoint = :endpoint)
"""
# Failed deliveries, and pending ones that wait for a retry.
_OF_ENDPOINT = """
SELECT endpoint, event_sequence FROM delivery
WHERE endpoint = ? AND (state = 'failed' OR (state = 'pending' AND attempts > 0))
"""
_QUEUE = """
UPDATE delivery SET state = 'pending', attempts = 0, first_attempt_ns = NULL, next_attempt_ns = 0, last_error = '',
    delivered_ns = NULL
WHERE endpoint = ? AND event_sequence = ?
"""

_Key = tuple[str, int]


class ReplayResult(NamedTuple):
    """How many deliveries were queued again, and which endpoints were disabled until now."""

    num_queued: int
    enabled_again: list[str]


class UnknownEvent(Exception):
    """The endpoint has no delivery of this event."""


def replay_events(connection: sqlite3.Connection, ids: Sequence[str], endpoint: str | None) -> ReplayResult:
    """Queue these events again, whatever their state, for `endpoint` or for every endpoint that they address.

    Raises:
        UnknownEvent: names an id that does not exist; nothing is changed.
        sqlite3.Error: the ledger can't be written.
    """
    with transaction(connection):
        keys: set[_Key] = set()
        for event_id in ids:
            rows = connection.execute(_OF_EVENT, {"id": event_id, "endpoint": endpoint}).fetchall()
            if not rows:
                raise UnknownEvent(f"no event {event_id}" + (f" for {endpoint}" if endpoint else ""))
            keys.update(rows)
        return _queue(connection, keys, {name for name, _ in keys})


def replay_endpoint(connection: sqlite3.Connection, endpoint: str) -> ReplayResult:
    """Queue all failed deliveries of `endpoint` again, make its retries due, and enable it if it was disabled.

    Raises:
        sqlite3.Error: the ledger can't be written.
    """
    with transaction(connection):
        return _queue(connection, connection.execute(_OF_ENDPOINT, (endpoint,)).fetchall(), [endpoint])


def _queue(connection: sqlite3.Connection, keys: Iterable[_Key], endpoints: Iterable[str]) -> ReplayResult:
    num_queued = connection.executemany(_QUEUE, keys).rowcount
    enabled = [name for name in sorted(endpoints) if _enable(connection, name)]
    return ReplayResult(max(num_queued, 0), enabled)


def _enable(connection: sqlite3.Connection, endpoint: str) -> bool:
    return connection.execute("DELETE FROM disabled_endpoint WHERE endpoint = ?", (endpoint,)).rowcount > 0
