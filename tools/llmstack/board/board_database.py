"""board.db: what the board was told and who signed what."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

FILE_NAME = "board.db"
BUSY_TIMEOUT_MS = 5_000

_TABLES = """
CREATE TABLE IF NOT EXISTS account (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('reviewer', 'reader')),
    token_sha256 TEXT NOT NULL UNIQUE,
    created_ns INTEGER NOT NULL,             -- Unix time
    removed_ns INTEGER                       -- Unix time; a name is never given to somebody else
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS session (
    id_sha256 TEXT PRIMARY KEY,
    reviewer TEXT NOT NULL REFERENCES account (name),
    csrf_token TEXT NOT NULL,
    expires_ns INTEGER NOT NULL              -- Unix time
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sign_off (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    reviewer TEXT NOT NULL REFERENCES account (name),
    engine_hash TEXT NOT NULL,
    manifest_hash TEXT NOT NULL,
    comment TEXT NOT NULL,
    signed_ns INTEGER NOT NULL,              -- Unix time
    withdrawn_ns INTEGER                     -- Unix time
);
CREATE UNIQUE INDEX IF NOT EXISTS sign_off_in_force
    ON sign_off (engine_hash, manifest_hash, reviewer) WHERE withdrawn_ns IS NULL;
CREATE TABLE IF NOT EXISTS event (
    id TEXT PRIMARY KEY,                     -- the webhook-id: a second delivery changes nothing
    type TEXT NOT NULL,
    time_ns INTEGER NOT NULL,                -- when it happened, Unix time
    received_ns INTEGER NOT NULL,            -- Unix time
    body BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS event_by_type ON event (type, time_ns);
CREATE TABLE IF NOT EXISTS alert (
    event_id TEXT PRIMARY KEY REFERENCES event (id),
    rule TEXT NOT NULL,
    window_start TEXT NOT NULL,
    window_end TEXT NOT NULL,
    time_ns INTEGER NOT NULL,                -- when it happened, Unix time
    count INTEGER NOT NULL,
    observed_max REAL NOT NULL,
    threshold REAL NOT NULL,
    engine_hash TEXT NOT NULL,
    samples TEXT NOT NULL                    -- request ids, a JSON array
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS alert_by_time ON alert (time_ns);
CREATE INDEX IF NOT EXISTS alert_by_window ON alert (window_start, rule);
"""


@contextmanager
def open_board(path: Path, *, writes: bool = True) -> Iterator[sqlite3.Connection]:
    """A connection to the board's database at `path`; what is done within is one transaction.

    Raises:
        sqlite3.Error: it can't be opened or written; nothing has changed then.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def make_board(path: Path) -> None:
    """Make the database and its tables when missing.

    Raises:
        OSError, sqlite3.Error: the directory can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_TABLES)
