"""The ledger's size budget: a limit for the database's pages in use, kept by the parent process.

Near the budget, the oldest rejected rows make room: they become counts (`rejection_count`), and new rejections are
sampled. Rows that cost money are never deleted, and no request is rejected because of the budget. Each change of the
level is an event, so that an operator raises the budget or the disk in time.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from llm_policy.ledger.database import transaction
from llm_policy.ledger.outbox import READINESS, append, new_event
from llm_policy.ledger.rejection_count import NS_PER_MINUTE

EVENT_TYPE = "llm_ledger_size"
OK, NEAR, OVER = "ok", "near", "over"
# The level becomes `near` above the first share of the budget, and `ok` again below the second.
NEAR_SHARE, OK_SHARE = 0.80, 0.75
KEPT_NS = 3_600_000_000_000  # the age below which no rejected row is pruned
PRUNE_BATCH_ROWS = 100  # requests wait for the write lock meanwhile
MAX_BATCHES = 50  # per call

_OLDEST_REFUSED = (
    "SELECT id FROM request INDEXED BY request_refused WHERE state = 'refused' AND canary = 0 AND admitted_ns < ? "
    # The newest row stays, because SQLite would reuse its id.
    "AND id < (SELECT max(id) FROM request) ORDER BY admitted_ns LIMIT ?"
)
_COUNT_PRUNED = (
    "INSERT INTO rejection_count (minute, code, task, engine_hash, num_samples, num_rows) "  # noqa: S608 - constants
    f"SELECT admitted_ns / {NS_PER_MINUTE}, code, task, engine_hash, 0, 1 FROM request WHERE id = ? "
    "ON CONFLICT (minute, code, task, engine_hash) DO UPDATE SET num_rows = num_rows + 1"
)
_SAVE = (
    "INSERT INTO ledger_size (id, used_bytes, max_bytes, level) VALUES (1, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET used_bytes = excluded.used_bytes, max_bytes = excluded.max_bytes, "
    "level = excluded.level"
)


class LedgerSize(NamedTuple):
    """The bytes of the database's pages in use, their budget (0 without one) and the level: ok, near or over."""

    used_bytes: int = 0
    max_bytes: int = 0
    level: str = OK


def read_size(connection: sqlite3.Connection) -> LedgerSize:
    """The size that the parent process measured last.

    Raises:
        sqlite3.OperationalError: an earlier version wrote the ledger.
    """
    row = connection.execute("SELECT used_bytes, max_bytes, level FROM ledger_size").fetchone()
    return LedgerSize(*row) if row else LedgerSize()


def keep_budget(connection: sqlite3.Connection, max_bytes: int, now_ns: int) -> LedgerSize:
    """Measure the ledger, prune rejected rows if it is near `max_bytes`, and report a change of the level.

    Raises:
        sqlite3.Error: the ledger can't be read or written.
    """
    last = read_size(connection)
    size = _measure(connection, max_bytes, last.level)
    if size.level != OK:
        size = _prune(connection, size, now_ns)
    if size != last:
        with transaction(connection):
            connection.execute(_SAVE, size)
            if size.level != last.level:
                append(connection, new_event(EVENT_TYPE, size._asdict(), now_ns, subject=size.level), [READINESS])
    return size


def _prune(connection: sqlite3.Connection, size: LedgerSize, now_ns: int) -> LedgerSize:
    """Delete the oldest rejected rows until the level is ok, none is old enough, or `MAX_BATCHES` are deleted."""
    for _ in range(MAX_BATCHES):
        ids = connection.execute(_OLDEST_REFUSED, (now_ns - KEPT_NS, PRUNE_BATCH_ROWS)).fetchall()
        if not ids:
            break
        with transaction(connection):
            connection.executemany(_COUNT_PRUNED, ids)
            connection.executemany("DELETE FROM request WHERE id = ?", ids)
        size = _measure(connection, size.max_bytes, size.level)
        if size.level == OK:
            break
    return size


def _measure(connection: sqlite3.Connection, max_bytes: int, last_level: str) -> LedgerSize:
    num_pages, num_free, page_bytes = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    used_bytes = (num_pages - num_free) * page_bytes
    if not max_bytes or used_bytes <= max_bytes * (NEAR_SHARE if last_level == OK else OK_SHARE):
        return LedgerSize(used_bytes, max_bytes, OK)
    return LedgerSize(used_bytes, max_bytes, OVER if used_bytes > max_bytes else NEAR)
