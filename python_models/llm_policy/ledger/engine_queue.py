"""How many requests wait for the engine: what load is shed by.

An open row of the ledger is a request that waits, unless it died: Triton tells nobody of a call that its client
cancelled, and only the parent of one that the engine failed. So an open row counts while it is young, measured by how
long answers take, and less the deaths that the parent noted meanwhile. Both are looked up only where open rows alone
would fill the queue.
"""

from __future__ import annotations

import sqlite3

TABLES = """
CREATE TABLE IF NOT EXISTS engine_death (
    boot_id TEXT NOT NULL,
    noted_ns INTEGER NOT NULL,      -- Unix time
    num_requests INTEGER NOT NULL,  -- of that boot, dead by then
    PRIMARY KEY (boot_id, noted_ns)
) WITHOUT ROWID;
"""

# Far beyond what an answer takes: what is given up too early is only settled late.
MAX_OPEN_S = 600
_PATIENCE_S, _PATIENCE_ANSWERS = 10, 4  # an answer may take this and so many times the slowest recent one
_RECENT_ROWS = 1_000
_PATIENCE_LASTS_NS = 1_000_000_000


class EngineQueue:
    """The queue of one boot, as one process sees it."""

    def __init__(self, connection: sqlite3.Connection, boot_id: str, max_size: int) -> None:
        self._connection = connection
        self._boot_id = boot_id
        self._max_size = max_size
        self._patience_ns = 0
        self._patience_from_ns = 0

    def room(self, now_ns: int) -> int:
        """How many more requests may be admitted."""
        num_open = self._num_open(now_ns - MAX_OPEN_S * 1_000_000_000)
        if num_open >= self._max_size:
            young_ns = now_ns - self._patience(now_ns)
            num_open = self._num_open(young_ns) - self._num_dead(young_ns)
        return self._max_size - num_open

    def note_dead(self, num_requests: int, now_ns: int) -> None:
        """So many requests of this boot are dead by now; in the caller's transaction."""
        execute = self._connection.execute
        execute("DELETE FROM engine_death WHERE boot_id <> ?", (self._boot_id,))
        execute(  # the last of the old ones is what later ones are compared with
            "DELETE FROM engine_death WHERE noted_ns < (SELECT max(noted_ns) FROM engine_death WHERE noted_ns < ?)",
            (now_ns - MAX_OPEN_S * 1_000_000_000,),
        )
        execute("INSERT OR REPLACE INTO engine_death VALUES (?, ?, ?)", (self._boot_id, now_ns, num_requests))

    def num_noted(self) -> int:
        """What `note_dead` was told last."""
        return self._num_dead_by("1", ())

    def _num_open(self, since_ns: int) -> int:
        row = self._connection.execute(
            "SELECT count(*) FROM request WHERE state = 'admitted' AND boot_id = ? AND admitted_ns >= ? "
            "AND row_number = 0",
            (self._boot_id, since_ns),
        ).fetchone()
        return int(row[0])

    def _num_dead(self, since_ns: int) -> int:
        return self.num_noted() - self._num_dead_by("noted_ns < ?", (since_ns,))

    def _num_dead_by(self, condition: str, values: tuple[int, ...]) -> int:
        row = self._connection.execute(
            f"SELECT max(num_requests) FROM engine_death WHERE boot_id = ? AND {condition}",  # noqa: S608 - from above
            (self._boot_id, *values),
        ).fetchone()
        return int(row[0] or 0)

    def _patience(self, now_ns: int) -> int:
        """How long an open row counts; until something was answered, as long as it may be open at all."""
        if now_ns - self._patience_from_ns > _PATIENCE_LASTS_NS:
            row = self._connection.execute(
                "SELECT max(closed_ns - admitted_ns) FROM request "
                "WHERE id > (SELECT max(id) FROM request) - ? AND state = 'settled' AND boot_id = ?",
                (_RECENT_ROWS, self._boot_id),
            ).fetchone()
            answers_ns = MAX_OPEN_S * 1_000_000_000 if row[0] is None else _PATIENCE_ANSWERS * int(row[0])
            self._patience_ns = min(_PATIENCE_S * 1_000_000_000 + answers_ns, MAX_OPEN_S * 1_000_000_000)
            self._patience_from_ns = now_ns
        return self._patience_ns
