"""What each row has used so far, in a file that the ledger reads for rows without an answer.

Triton tells neither the engine nor the policy that a client cancelled a call of the ensemble: the engine decodes to the
end, and nobody gets the answer. The same holds for a server that dies. So the engine notes each row's number of tokens
each second and at its end. A note that can't be written is lost; the ledger then charges the prompt alone.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from portable_engine.sequence import Sequence

FILE_NAME = "engine_usage.db"
FLUSH_NS = 1_000_000_000
_KEPT_NS = 1_200_000_000_000  # the ledger closes a row without an answer after half of this
_DELETE_NS = 60_000_000_000
_TABLE = """
CREATE TABLE IF NOT EXISTS usage (
    boot_id TEXT NOT NULL,
    ledger_id INTEGER NOT NULL,
    num_completion_tokens INTEGER NOT NULL,
    noted_ns INTEGER NOT NULL,  -- Unix time
    PRIMARY KEY (boot_id, ledger_id)
) WITHOUT ROWID
"""


def ledger_ids(arrays: Mapping[str, Any], num_rows: int) -> list[int]:
    """The ledger's id of each row, 0 where it is not known: the last element of the JSON array in `policy_decision`."""
    decisions = arrays.get("policy_decision")
    if decisions is None or len(decisions) != num_rows:
        return [0] * num_rows
    return [_last_number(row.tobytes()) for row in decisions]


def _last_number(text: bytes) -> int:
    last = text.rstrip().removesuffix(b"]").rpartition(b",")[2]
    return int(last) if last.isdigit() else 0


class UsageJournal:
    """The notes of one start of the server. One thread uses it."""

    def __init__(self, path: Path, boot_id: str, log: Callable[[str], None]) -> None:
        self._path, self._boot_id, self._log = path, boot_id, log
        self._pending: dict[int, int] = {}
        self._connection: sqlite3.Connection | None = None
        self._next_flush_ns = 0
        self._next_delete_ns = 0

    def note(self, sequences: Iterable[Sequence]) -> None:
        """Note how many tokens these sequences have generated."""
        for sequence in sequences:
            if sequence.ledger_id and sequence.completion_token_ids:
                self._pending[sequence.ledger_id] = len(sequence.output_token_ids)

    def is_due(self) -> bool:
        """Whether the last second's notes are to be written."""
        return time.monotonic_ns() >= self._next_flush_ns

    def flush(self) -> None:
        """Write the pending notes, and delete old ones from time to time."""
        self._next_flush_ns = time.monotonic_ns() + FLUSH_NS
        if not self._pending:
            return
        try:
            self._write(time.time_ns())
        except (sqlite3.Error, OSError) as error:
            self._log(f"usage can't be noted: {type(error).__name__}")
            self.close()
        self._pending.clear()

    def close(self) -> None:
        """Close the file; the next note opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(self, now_ns: int) -> None:
        if self._connection is None:
            self._connection = self._open()
        rows = [(self._boot_id, ledger_id, number, now_ns) for ledger_id, number in self._pending.items()]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?)", rows)
        if now_ns >= self._next_delete_ns:
            self._next_delete_ns = now_ns + _DELETE_NS
            self._connection.execute("DELETE FROM usage WHERE noted_ns < ?", (now_ns - _KEPT_NS,))
        self._connection.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=0.1, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")  # a power cut may lose notes, the death of a process none
        connection.execute(_TABLE)
        return connection
