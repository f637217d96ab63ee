"""The file that holds the outbox, opened by whoever delivers or looks at it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from llm_policy.outbox import TABLES

LEDGER_FILE = "ledger.db"
_BUSY_TIMEOUT_S = 10.0


def open_outbox(state_dir: Path) -> sqlite3.Connection:
    """A connection of its own to the ledger in `state_dir`, in autocommit mode.

    Raises:
        sqlite3.Error: the file can't be opened or made.
    """
    connection = sqlite3.connect(
        state_dir / LEDGER_FILE, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(TABLES)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
