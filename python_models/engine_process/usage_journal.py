"""What each row has used so far, in a file that the ledger reads for rows without an answer.

Triton tells neither the engine nor the policy that a client cancelled a call of the ensemble: the engine decodes to the
end, and nobody gets the answer. The same holds for a server that dies. So the engine notes each row when it comes, its
number of tokens each second, and its end. A note that can't be written is lost; the ledger then charges the prompt
alone. A row that has ended here, or that has not come although later ones have, and is still open in the ledger a while
later has nobody who waits for it: the ledger closes it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

FILE_NAME = "engine_usage.db"
FLUSH_S = 1.0
_KEPT_NS = 1_200_000_000_000  # the ledger closes a row without an answer after half of this
_DELETE_NS = 60_000_000_000
_TABLE = """
CREATE TABLE IF NOT EXISTS row_usage (
    boot_id TEXT NOT NULL,
    ledger_id INTEGER NOT NULL,
    num_completion_tokens INTEGER NOT NULL,
    noted_ns INTEGER NOT NULL,  -- Unix time
    has_ended INTEGER NOT NULL,
    PRIMARY KEY (boot_id, ledger_id)
) WITHOUT ROWID
"""


class UsageJournal:
    """The notes of one engine process. Two threads may use it: one notes, the other one writes."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        self._path, self._log = path, log
        self._pending: dict[tuple[str, int], tuple[int, bool]] = {}
        self._connection: sqlite3.Connection | None = None
        self._next_delete_ns = 0

    @property
    def is_pending(self) -> bool:
        """Whether a note is not written yet."""
        return bool(self._pending)

    def note(self, boot_id: str, ledger_id: int, num_tokens: int, *, has_ended: bool = False) -> None:
        """Note how many tokens a row of the server start `boot_id` has got so far, and whether it has ended."""
        if boot_id and ledger_id:
            self._pending[boot_id, ledger_id] = (num_tokens, has_ended)

    def flush(self) -> None:
        """Write the pending notes, and delete old ones from time to time."""
        notes, self._pending = self._pending, {}
        if not notes:
            return
        try:
            self._write(notes, time.time_ns())
        except (sqlite3.Error, OSError) as error:
            self._log(f"usage can't be noted: {type(error).__name__}")
            self.close()

    def close(self) -> None:
        """Close the file; the next note opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(self, notes: dict[tuple[str, int], tuple[int, bool]], now_ns: int) -> None:
        if self._connection is None:
            self._connection = self._open()
        rows = [(*row, number, now_ns, has_ended) for row, (number, has_ended) in notes.items()]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT OR REPLACE INTO row_usage VALUES (?, ?, ?, ?, ?)", rows)
        if now_ns >= self._next_delete_ns:
            self._next_delete_ns = now_ns + _DELETE_NS
            self._connection.execute("DELETE FROM row_usage WHERE noted_ns < ?", (now_ns - _KEPT_NS,))
        self._connection.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=0.1, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")  # a power cut may lose notes, the death of a process none
        connection.execute(_TABLE)
        return connection
