"""Forgets events that every receiver took long ago. What is pending or failed stays for ever."""

from __future__ import annotations

import json
import sqlite3

from llmstack.events.delivery_line import transaction

STEP_EVENTS = 100  # a step holds the ledger's write lock: requests wait for it, so it is short
_OLD = """
SELECT sequence FROM event
WHERE time_ns < ?1 AND (?2 IS NULL OR sequence IN (SELECT value FROM json_each(?2))) AND NOT EXISTS (
    SELECT 1 FROM delivery WHERE event_sequence = event.sequence AND (state <> 'delivered' OR delivered_ns >= ?1)
)
ORDER BY sequence LIMIT ?3
"""


def prune_step(connection: sqlite3.Connection, before_ns: int) -> int:
    """Delete up to STEP_EVENTS events that all their receivers took before `before_ns` (Unix time).

    Returns the number found. May raise sqlite3.Error.
    """
    found = [sequence for (sequence,) in connection.execute(_OLD, (before_ns, None, STEP_EVENTS))]
    if found:
        with transaction(connection):  # looked for again: somebody may have replayed one in between
            rows = connection.execute(_OLD, (before_ns, json.dumps(found), STEP_EVENTS)).fetchall()
            connection.executemany("DELETE FROM delivery WHERE event_sequence = ?", rows)
            connection.executemany("DELETE FROM event WHERE sequence = ?", rows)
    return len(found)
