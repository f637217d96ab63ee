"""Forgets events that every receiver took long ago. What is pending or failed stays for ever."""

from __future__ import annotations

import json
import sqlite3

from llm_policy.database import transaction

STEP_EVENTS = 100  # a step holds the ledger's write lock: requests wait for it, so it is short
_OLD = """
SELECT sequence FROM event
WHERE time_ns < :before_ns AND (:among IS NULL OR sequence IN (SELECT value FROM json_each(:among))) AND NOT EXISTS (
    SELECT 1 FROM delivery
    WHERE event_sequence = event.sequence AND (state <> 'delivered' OR delivered_ns >= :before_ns)
)
ORDER BY sequence LIMIT :limit
"""


def prune_step(connection: sqlite3.Connection, before_ns: int) -> int:
    """Delete up to STEP_EVENTS events that all their receivers took before `before_ns` (Unix time).

    Returns the number found. May raise sqlite3.Error.
    """
    values = {"before_ns": before_ns, "among": None, "limit": STEP_EVENTS}
    found = [sequence for (sequence,) in connection.execute(_OLD, values)]
    if found:
        with transaction(connection):  # looked for again: somebody may have replayed one in between
            rows = connection.execute(_OLD, {**values, "among": json.dumps(found)}).fetchall()
            connection.executemany("DELETE FROM delivery WHERE event_sequence = ?", rows)
            connection.executemany("DELETE FROM event WHERE sequence = ?", rows)
    return len(found)
