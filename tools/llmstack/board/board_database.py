"""board.db: accounts, sessions, sign-offs, events and alerts."""

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
    removed_ns INTEGER                       -- Unix time; names are never reused
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
    withdrawn_ns INTEGER,                    -- Unix time
    evidence_hash TEXT NOT NULL DEFAULT ''   -- of the run records at that time
);
CREATE UNIQUE INDEX IF NOT EXISTS sign_off_in_force
    ON sign_off (engine_hash, manifest_hash, reviewer) WHERE withdrawn_ns IS NULL;
CREATE TABLE IF NOT EXISTS event (
    id TEXT PRIMARY KEY,                     -- the webhook-id: a repeated delivery changes nothing
    type TEXT NOT NULL,
    time_ns INTEGER NOT NULL,                -- when it happened, Unix time
    received_ns INTEGER NOT NULL,            -- Unix time
    body BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS event_of_history ON event (time_ns) WHERE type != 'llm_observability_alert';
CREATE TABLE IF NOT EXISTS alert (
    event_id TEXT PRIMARY KEY REFERENCES event (id),
    source TEXT NOT NULL,                    -- the CloudEvents source: the service's instance
    rule TEXT NOT NULL,
    phase TEXT NOT NULL,
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
CREATE INDEX IF NOT EXISTS alert_by_window ON alert (window_start, rule, source);
CREATE INDEX IF NOT EXISTS alert_by_engine ON alert (engine_hash, time_ns);
PRAGMA user_version = 1;
"""
_FROM_0 = """
ALTER TABLE sign_off ADD COLUMN evidence_hash TEXT NOT NULL DEFAULT '';
ALTER TABLE alert ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE alert ADD COLUMN phase TEXT NOT NULL DEFAULT '';
DROP INDEX event_by_type;
DROP INDEX alert_by_window;
"""


@contextmanager
def open_board(path: Path, *, writes: bool = True) -> Iterator[sqlite3.Connection]:
    """A connection to the board's database at `path`, within one transaction.

    Raises:
        sqlite3.Error: it can't be opened or written; nothing is changed.
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


def create_board(path: Path) -> None:
    """Create the database if it is missing, and migrate one of an earlier version.

    Raises:
        OSError, sqlite3.Error: the directory can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            is_old = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alert'").fetchone()
            _run(connection, (_FROM_0 if is_old else "") + _TABLES)
        connection.execute("COMMIT")


def _run(connection: sqlite3.Connection, script: str) -> None:
    """Run the statements of a script in the open transaction; `executescript` would commit it first."""
    for statement in script.split(";\n"):
        connection.execute(statement)
