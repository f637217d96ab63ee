"""The file that holds the outbox, opened by whoever delivers or looks at it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from llm_policy.ledger.database import FILE_NAME, open_database

LEDGER_FILE = FILE_NAME


def open_outbox(state_dir: Path) -> sqlite3.Connection:
    """A connection of its own to the ledger in `state_dir`, in autocommit mode. The stubs and the parent make it.

    Raises:
        sqlite3.Error: the file is not there or can't be opened.
    """
    return open_database(state_dir / FILE_NAME, must_exist=True)
