"""The number of requests waiting for the engine, which load shedding is based on.

An open row of the ledger is a waiting request, unless the request is dead: Triton does not report calls that a client
cancelled, and only the parent process sees calls that the engine failed. Once open rows alone fill the queue, two
corrections apply: only rows younger than a limit count, derived from the slowest recent answers, and the dead requests
that the parent recorded in that period are subtracted. Both need extra queries, so they run only in that case.
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

# Far longer than any answer takes; a row closed too early is still settled by its answer.
MAX_OPEN_S = 600
# An open row counts for this many seconds plus this many times the slowest recent answer.
_AGE_LIMIT_BASE_S, _AGE_LIMIT_ANSWERS = 10, 4
_RECENT_ROWS = 1_000
_AGE_LIMIT_TTL_NS = 1_000_000_000


class EngineQueue:
    """The queue of one boot of the server, as one process sees it."""

    def __init__(self, connection: sqlite3.Connection, boot_id: str, max_size: int) -> None:
        self._connection = connection
        self._boot_id = boot_id
        self._max_size = max_size
        self._age_limit_ns = 0
        self._age_limit_computed_ns = 0

    def free_places(self, now_ns: int) -> int:
        """How many more requests may be admitted; not positive when the queue is full."""
        num_waiting = self._num_open(now_ns - MAX_OPEN_S * 1_000_000_000)
        if num_waiting >= self._max_size:
            since_ns = now_ns - self._age_limit(now_ns)
            num_waiting = self._num_open(since_ns) - self._num_dead(since_ns)
        return self._max_size - num_waiting

    def record_deaths(self, num_requests: int, now_ns: int) -> None:
        """Record the total of this boot's dead requests so far, in the caller's transaction."""
        execute = self._connection.execute
        execute("DELETE FROM engine_death WHERE boot_id <> ?", (self._boot_id,))
        execute(  # the newest expired record stays: later totals are compared with it
            "DELETE FROM engine_death WHERE noted_ns < (SELECT max(noted_ns) FROM engine_death WHERE noted_ns < ?)",
            (now_ns - MAX_OPEN_S * 1_000_000_000,),
        )
        execute("INSERT OR REPLACE INTO engine_death VALUES (?, ?, ?)", (self._boot_id, now_ns, num_requests))

    def num_recorded_deaths(self) -> int:
        """The total that `record_deaths` wrote last."""
        return self._max_deaths("1", ())

    def _num_open(self, since_ns: int) -> int:
        row = self._connection.execute(
            "SELECT count(*) FROM request WHERE state = 'admitted' AND boot_id = ? AND admitted_ns >= ? "
            "AND row_number = 0",
            (self._boot_id, since_ns),
        ).fetchone()
        return int(row[0])

    def _num_dead(self, since_ns: int) -> int:
        return self.num_recorded_deaths() - self._max_deaths("noted_ns < ?", (since_ns,))

    def _max_deaths(self, condition: str, values: tuple[int, ...]) -> int:
        row = self._connection.execute(
            f"SELECT max(num_requests) FROM engine_death WHERE boot_id = ? AND {condition}",  # noqa: S608 - from above
            (self._boot_id, *values),
        ).fetchone()
        return int(row[0] or 0)

    def _age_limit(self, now_ns: int) -> int:
        """The age in ns up to which an open row counts; `MAX_OPEN_S` until a first request is answered."""
        if now_ns - self._age_limit_computed_ns > _AGE_LIMIT_TTL_NS:
            row = self._connection.execute(
                "SELECT max(closed_ns - admitted_ns) FROM request "
                "WHERE id > (SELECT max(id) FROM request) - ? AND state = 'settled' AND boot_id = ?",
                (_RECENT_ROWS, self._boot_id),
            ).fetchone()
            answers_ns = MAX_OPEN_S * 1_000_000_000 if row[0] is None else _AGE_LIMIT_ANSWERS * int(row[0])
            self._age_limit_ns = min(_AGE_LIMIT_BASE_S * 1_000_000_000 + answers_ns, MAX_OPEN_S * 1_000_000_000)
            self._age_limit_computed_ns = now_ns
        return self._age_limit_ns
