"""Forgets events that every receiver took long ago. What is pending or failed stays for ever."""

from __future__ import annotations

import json
import sqlite3

from llm_policy.ledger import alerts
from llm_policy.ledger.database import transaction
from llm_policy.ledger.outbox import PRUNED_EVENTS

STEP_EVENTS = 100  # a step holds the ledger's write lock: requests wait for it, so it is short
_OLD = """
SELECT DISTINCT event_sequence FROM delivery AS taken INDEXED BY delivery_delivered
WHERE state = 'delivered' AND delivered_ns < :before_ns
    AND (:among IS NULL OR event_sequence IN (SELECT value FROM json_each(:among)))
    AND NOT EXISTS (
        SELECT 1 FROM delivery
        WHERE event_sequence = taken.event_sequence AND (state <> 'delivered' OR delivered_ns >= :before_ns)
    )
LIMIT :limit
"""
_COUNT = """
INSERT INTO pruned_total VALUES (?, ?, ?) ON CONFLICT (endpoint, rule) DO UPDATE SET value = value + excluded.value
"""


def prune_step(connection: sqlite3.Connection, before_ns: int) -> int:
    """Delete up to STEP_EVENTS events that all their receivers took before `before_ns` (Unix time).

    What they told is added to `pruned_total`. Returns the number found. May raise sqlite3.Error.
    """
    values = {"before_ns": before_ns, "among": None, "limit": STEP_EVENTS}
    found = [sequence for (sequence,) in connection.execute(_OLD, values)]
    if found:
        with transaction(connection):  # looked for again: somebody may have replayed one in between
            again = connection.execute(_OLD, {**values, "among": json.dumps(found)})
            _delete(connection, [sequence for (sequence,) in again])
    return len(found)


def _delete(connection: sqlite3.Connection, sequences: list[int]) -> None:
    gone = {PRUNED_EVENTS: len(sequences), **alerts.told(connection, sequences)}
    connection.executemany(_COUNT, [(*key, number) for key, number in gone.items()])
    rows = [(sequence,) for sequence in sequences]
    connection.executemany("DELETE FROM delivery WHERE event_sequence = ?", rows)
    connection.executemany("DELETE FROM event WHERE sequence = ?", rows)
