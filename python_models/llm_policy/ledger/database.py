"""ledger.db: one SQLite file for the ledger, the metric totals, the alerts and the outbox.

Write-ahead logging lets readers run beside one writer. With `synchronous=NORMAL` a commit survives the death of any
process, and a power cut leaves the file consistent. Transactions begin as writers (`BEGIN IMMEDIATE`), so none fails
halfway because another writer was faster.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType

from llm_policy.ledger import (
    alerts,
    archive_file,
    budget_alert,
    engine_queue,
    metric_total,
    outbox,
    rejection_count,
    tenant,
    tenant_account,
    usage,
)
from llm_policy.ledger import tables as ledger_tables

FILE_NAME = "ledger.db"
BUSY_TIMEOUT_MS = 5_000
# A writer holds the lock for about 40 µs, so a waiting writer retries a few times without sleeping. SQLite's own busy
# handler sleeps for a millisecond first.
NUM_SPINS = 20
SHORTEST_SLEEP_S, LONGEST_SLEEP_S = 50e-6, 5e-3
MAX_WAIT_S = 2.0
# The parent process checkpoints the log each second (`checkpoint`), so that no request waits for the disk. Without it,
# a commit that finds the log this long (64 MiB of 4 KiB pages) checkpoints. A log that grew longer during a long read
# is truncated to this size when it restarts.
AUTOCHECKPOINT_PAGES = 16_384
MAX_IDLE_LOG_BYTES = AUTOCHECKPOINT_PAGES * 4_096
RESTART_PAGES = 8_192

_PARTS = (ledger_tables, engine_queue, metric_total, alerts, outbox, rejection_count, archive_file)
_TENANT_PARTS = (tenant, tenant_account, budget_alert, usage)
_TABLES = "\n".join(part.TABLES for part in (*_PARTS, *_TENANT_PARTS))
# Schema version. Upgrading means running every CREATE … IF NOT EXISTS, and what `_create_tables` does beside.
VERSION = 5


class NewerLedger(sqlite3.DatabaseError):
    """The file's schema version is newer than this code supports; `next_step` is the operator's remedy."""

    next_step = "run the llmstack version that wrote it, or use another --state-dir (LLMSTACK_STATE_DIR)"

    def __init__(self, version: int) -> None:
        super().__init__(
            f"{FILE_NAME} has version {version}, written by a newer llmstack; this one supports up to {VERSION}"
        )


def open_database(
    path: Path, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS, must_exist: bool = False
) -> sqlite3.Connection:
    """Open the database at `path` for writing; create it with all its tables unless it `must_exist`.

    Transactions are explicit (see `transaction`). Threads may share the connection if they hold a common lock.

    Raises:
        NewerLedger: the file is newer than this code; it is left unchanged.
        sqlite3.Error: the file can't be opened or written.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'rw' if must_exist else 'rwc'}",
        uri=True,
        timeout=BUSY_TIMEOUT_MS / 1_000,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        version = _version(connection)
        # SQLite itself doesn't wait here: of several processes that open a new file, one would fail.
        _execute_when_unlocked(connection, "PRAGMA journal_mode = WAL", BUSY_TIMEOUT_MS / 1_000)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {MAX_IDLE_LOG_BYTES}")
        if version < VERSION:
            _create_tables(connection, version)
        connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open the existing database at `path` read-only.

    Raises:
        NewerLedger: the file is newer than this code.
        sqlite3.Error: the file can't be opened.
    """
    connection = sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        _version(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def transaction(connection: sqlite3.Connection, max_wait_s: float = MAX_WAIT_S) -> AbstractContextManager[None]:
    """One write transaction: commits at the end of the block, rolls back on any exception.

    Raises:
        sqlite3.Error: the write lock was not free within `max_wait_s`, or the write failed; nothing has changed.
    """
    return _Transaction(connection, max_wait_s)


class _Transaction(AbstractContextManager[None]):
    """A class, as a generator takes 2 µs longer."""

    def __init__(self, connection: sqlite3.Connection, max_wait_s: float) -> None:
        self._connection = connection
        self._max_wait_s = max_wait_s

    def __enter__(self) -> None:
        _execute_when_unlocked(self._connection, "BEGIN IMMEDIATE", self._max_wait_s)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:  # SQLite itself rolls back when the disk is full
                self._connection.execute("ROLLBACK")


def checkpoint(connection: sqlite3.Connection) -> None:
    """Copy the write-ahead log into the database file; the parent process calls this each second.

    Writers continue meanwhile, unless the log is longer than `RESTART_PAGES`: then they wait for the last few pages,
    and the next writer restarts the log. While a reader still uses the log, the restart is left to a later call.

    Raises:
        sqlite3.Error: the disk write failed.
    """
    _, num_log_pages, num_copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if num_log_pages > RESTART_PAGES and num_log_pages == num_copied:
        with _no_busy_timeout(connection):  # SQLite would hold the write lock while it waits for readers
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()


def is_locked(error: sqlite3.Error) -> bool:
    """Whether `error` only means that another writer held the lock."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _execute_when_unlocked(connection: sqlite3.Connection, statement: str, max_wait_s: float) -> None:
    deadline_s = time.monotonic() + max_wait_s
    sleep_s = SHORTEST_SLEEP_S
    for attempt in itertools.count():
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if not is_locked(error) or time.monotonic() > deadline_s:
                raise
        if attempt < NUM_SPINS:
            os.sched_yield()
        else:
            time.sleep(sleep_s)
            sleep_s = min(2 * sleep_s, LONGEST_SLEEP_S)


@contextmanager
def _no_busy_timeout(connection: sqlite3.Connection) -> Iterator[None]:
    (timeout_ms,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {timeout_ms}")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise NewerLedger(version)
    return int(version)


def _create_tables(connection: sqlite3.Connection, version: int) -> None:
    with transaction(connection, BUSY_TIMEOUT_MS / 1_000):
        version = _version(connection)  # another process may have been faster
        if 0 < version <= ledger_tables.LAST_VERSION_WITH_RESERVATIONS:
            ledger_tables.upgrade(connection)
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
        if 0 < version < usage.SINCE_VERSION:
            usage.fill(connection)
        connection.execute(f"PRAGMA user_version = {VERSION}")
