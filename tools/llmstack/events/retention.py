"""Deletes events that every receiver took long ago. Pending and failed events are kept forever."""

from __future__ import annotations

import json
import sqlite3

from llm_policy.ledger import alerts
from llm_policy.ledger.database import transaction
from llm_policy.ledger.outbox import PRUNED_EVENTS

STEP_EVENTS = 100  # per step, because a step holds the ledger's write lock and requests wait for it
_EXPIRED = """
SELECT DISTINCT event_sequence FROM delivery AS delivered INDEXED BY delivery_delivered
WHERE state = 'delivered' AND delivered_ns < :before_ns
    AND (:among IS NULL OR event_sequence IN (SELECT value FROM json_each(:among)))
    AND NOT EXISTS (
        SELECT 1 FROM delivery
        WHERE event_sequence = delivered.event_sequence AND (state <> 'delivered' OR delivered_ns >= :before_ns)
    )
LIMIT :limit
"""
_COUNT = """
INSERT INTO pruned_total VALUES (?, ?, ?) ON CONFLICT (endpoint, rule) DO UPDATE SET value = value + excluded.value
"""


def prune_step(connection: sqlite3.Connection, before_ns: int) -> int:
    """Delete up to STEP_EVENTS events that all their receivers took before `before_ns` (Unix time).

    Adds the breaches that they reported to `pruned_total`. Returns the number of events found.

    Raises:
        sqlite3.Error: the ledger can't be written.
    """
    values = {"before_ns": before_ns, "among": None, "limit": STEP_EVENTS}
    found = [sequence for (sequence,) in connection.execute(_EXPIRED, values)]
    if found:
        with transaction(connection):  # queried again, because a replay may have queued one in between
            rows = connection.execute(_EXPIRED, {**values, "among": json.dumps(found)})
            _delete(connection, [sequence for (sequence,) in rows])
    return len(found)


def _delete(connection: sqlite3.Connection, sequences: list[int]) -> None:
    pruned = {PRUNED_EVENTS: len(sequences), **alerts.count_reported_breaches(connection, sequences)}
    connection.executemany(_COUNT, [(*key, number) for key, number in pruned.items()])
    rows = [(sequence,) for sequence in sequences]
    connection.executemany("DELETE FROM delivery WHERE event_sequence = ?", rows)
    connection.executemany("DELETE FROM event WHERE sequence = ?", rows)
