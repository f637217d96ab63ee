"""What the engine noted about rows that got no answer.

The engine process writes the file (its module `usage_journal`), because Triton does not tell that a client has gone.
Without the file, or without a note on a row, only the row's prompt is known to be used.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

FILE_NAME = "engine_usage.db"
_NOTE = (
    "SELECT num_completion_tokens, CASE WHEN has_ended THEN noted_ns END FROM row_usage "
    "WHERE boot_id = ? AND ledger_id = ?"
)


_NEWEST = "SELECT max(ledger_id) FROM row_usage WHERE boot_id = ?"


class EngineNote(NamedTuple):
    """The tokens that a row has got, and the Unix time of its end in the engine; None if it has not ended."""

    num_tokens: int = 0
    ended_ns: int | None = None


class EngineNotes(NamedTuple):
    """Notes by ledger id, and the newest row of the ledger's server start that came to the engine; 0: none is known."""

    by_id: Mapping[int, EngineNote]
    newest_id: int


def read_notes(ledger: sqlite3.Connection, rows: Iterable[tuple[str, int]], boot_id: str) -> EngineNotes:
    """The notes beside this ledger on those `rows` (boot id, ledger id) that have one; `boot_id` is the ledger's."""
    (_, _, ledger_path), *_ = ledger.execute("PRAGMA database_list").fetchall()
    path = Path(ledger_path).with_name(FILE_NAME)
    if not path.exists():
        return EngineNotes({}, 0)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=1.0)) as notes:
            (newest_id,) = notes.execute(_NEWEST, (boot_id,)).fetchone()
            found = {row_id: notes.execute(_NOTE, (row_boot_id, row_id)).fetchone() for row_boot_id, row_id in rows}
    except sqlite3.Error:
        return EngineNotes({}, 0)
    by_id = {row_id: EngineNote(max(0, int(note[0])), note[1]) for row_id, note in found.items() if note}
    return EngineNotes(by_id, newest_id or 0)
