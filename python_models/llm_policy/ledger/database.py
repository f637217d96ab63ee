"""ledger.db: one SQLite file for what was decided, what it caused and what is still to be delivered.

Write-ahead logging lets readers and one writer work at once; `synchronous=NORMAL` keeps a commit whatever happens to
the processes, and the file whole whatever happens to the machine. Transactions begin as writers (`BEGIN IMMEDIATE`),
so that none can fail half-way because another one was faster.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_policy.ledger import alerts, engine_queue, metric_total, outbox
from llm_policy.ledger import tables as ledger_tables

FILE_NAME = "ledger.db"
BUSY_TIMEOUT_MS = 5_000
# A writer holds the lock for some 40 µs: whoever finds it taken asks again at once a few times. SQLite's own handler
# sleeps for a whole millisecond first.
NUM_SPINS = 20
SHORTEST_SLEEP_S, LONGEST_SLEEP_S = 50e-6, 5e-3
MAX_WAIT_S = 2.0
# The parent copies the log back each second (`checkpoint`), so that no request waits for the disk. Where nobody does,
# a commit that finds the log this long does it: 64 MiB of 4 KiB pages. A log that a long reader let grow beyond that
# is cut to it once it is begun anew.
AUTOCHECKPOINT_PAGES = 16_384
MAX_IDLE_LOG_BYTES = AUTOCHECKPOINT_PAGES * 4_096
RESTART_PAGES = 8_192

_TABLES = "\n".join((ledger_tables.TABLES, engine_queue.TABLES, metric_total.TABLES, alerts.TABLES, outbox.TABLES))
# What a file has is what the code of its version made. A new version only adds, so that the tables are simply made.
VERSION = 2


class NewerLedger(sqlite3.DatabaseError):
    """The file was made by code that knows more than this does; `next_step` says what to do about it."""

    next_step = "run the llmstack that made it, or give this one another --state-dir (LLMSTACK_STATE_DIR)"

    def __init__(self, version: int) -> None:
        super().__init__(
            f"{FILE_NAME} is of version {version}, made by a newer llmstack than this one, which knows up to {VERSION}"
        )


def open_database(
    path: Path, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS, must_exist: bool = False
) -> sqlite3.Connection:
    """A connection to the database at `path`, made with all its tables when missing, unless it `must_exist`.

    Its transactions are explicit (see `transaction`). Several threads may share it under a lock of theirs.

    Raises:
        NewerLedger: it is left as it is.
        sqlite3.Error: it can't be opened or written.
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
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {MAX_IDLE_LOG_BYTES}")
        if version < VERSION:
            _make_tables(connection)
        connection.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that can't change anything; the file must be there.

    Raises:
        NewerLedger: this code can't tell what stands in it.
        sqlite3.Error: it can't be opened.
    """
    connection = sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        _version(connection)
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, max_wait_s: float = MAX_WAIT_S) -> Iterator[None]:
    """One writing transaction: committed at the end, rolled back when anything is raised.

    Raises:
        sqlite3.Error: the lock was not free within `max_wait_s`, or nothing could be written; nothing has changed.
    """
    _begin(connection, max_wait_s)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk may have rolled it back already
            connection.execute("ROLLBACK")
        raise


def checkpoint(connection: sqlite3.Connection) -> None:
    """Copy the write-ahead log into the file; the parent calls this each second, on its own connection.

    Writers go on meanwhile, except where the log has grown long all the same: then they wait for the last few pages,
    and the next one starts the log anew. While somebody still reads the log that can't be, and is left to a later call.

    Raises:
        sqlite3.Error: the disk does not take it.
    """
    _, num_log_pages, num_copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if num_log_pages > RESTART_PAGES and num_log_pages == num_copied:
        with _without_waiting(connection):  # SQLite holds the write lock while it waits for readers
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another writer was in the way, and nothing is wrong with the file."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _begin(connection: sqlite3.Connection, max_wait_s: float) -> None:
    give_up_s = time.monotonic() + max_wait_s
    sleep_s = SHORTEST_SLEEP_S
    for attempt in itertools.count():
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if not is_locked(error) or time.monotonic() > give_up_s:
                raise
        if attempt < NUM_SPINS:
            os.sched_yield()
        else:
            time.sleep(sleep_s)
            sleep_s = min(2 * sleep_s, LONGEST_SLEEP_S)


@contextmanager
def _without_waiting(connection: sqlite3.Connection) -> Iterator[None]:
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


def _make_tables(connection: sqlite3.Connection) -> None:
    with transaction(connection, BUSY_TIMEOUT_MS / 1_000):
        for statement in _TABLES.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
