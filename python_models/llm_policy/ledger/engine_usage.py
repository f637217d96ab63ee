"""What the engine noted about rows that got no answer.

The portable engine writes the file (its module `usage_journal`), because Triton does not tell that a client has gone.
Without the file, or without a note on a row, only the row's prompt is known to be used.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

FILE_NAME = "engine_usage.db"
_NOTE = "SELECT num_completion_tokens FROM usage WHERE boot_id = ? AND ledger_id = ?"


def read_usage(ledger: sqlite3.Connection, rows: Iterable[tuple[str, int]]) -> dict[int, int]:
    """Completion tokens by ledger id, of those `rows` (boot id, ledger id) that have a note beside this ledger."""
    (_, _, ledger_path), *_ = ledger.execute("PRAGMA database_list").fetchall()
    path = Path(ledger_path).with_name(FILE_NAME)
    if not path.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=1.0)) as notes:
            found = {ledger_id: notes.execute(_NOTE, (boot_id, ledger_id)).fetchone() for boot_id, ledger_id in rows}
    except sqlite3.Error:
        return {}
    return {ledger_id: max(0, int(note[0])) for ledger_id, note in found.items() if note}
