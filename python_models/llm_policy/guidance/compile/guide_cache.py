"""What is known about guides: in memory, bounded in bytes, before a SQLite file that all instances share.

A verdict holds for the exact text of a guide (the order of a schema's properties is the order of the answer's), for
one tokenizer, one version of XGrammar and one set of limits.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import orjson

from llm_policy.errors import Code
from llm_policy.guidance.compile.guide_report import GuideReport

MAX_MEMORY_BYTES = 32 << 20
MAX_FILE_VERDICTS = 20_000
# A guide that overran or killed its compiler gets another chance after this; other refusals are final.
BRIEF_S = 60.0
_VERDICT_BYTES = 512

Key = tuple[str, str]


class GuideCache:
    """Verdicts by guide type and text. `context` is all else that they depend on; `path` None keeps none on disk.

    A disk that is full or read-only loses nothing but time: the verdict is kept in memory all the same.
    """

    def __init__(self, path: Path | None, context: str) -> None:
        self._context = context
        self._memory: OrderedDict[Key, tuple[GuideReport, float]] = OrderedDict()
        self._memory_bytes = 0
        self._lock = threading.Lock()
        self._file = _open(path) if path is not None else None

    def get(self, kind: str, text: str) -> GuideReport | None:
        """The verdict in memory; None when there is none, or it was brief and is over."""
        with self._lock:
            found = self._memory.get((kind, text))
            if found is None:
                return None
            report, expires = found
            if expires < time.monotonic():
                self._drop((kind, text))
                return None
            self._memory.move_to_end((kind, text))
            return report

    def fetch(self, kind: str, text: str) -> GuideReport | None:
        """The verdict in the file, which is then in memory as well."""
        if self._file is None:
            return None
        with suppress(sqlite3.Error):
            query = "SELECT report FROM verdict WHERE key = ?"
            row = self._file.execute(query, (self._file_key(kind, text),)).fetchone()
            if row is not None:
                report = GuideReport(*orjson.loads(row[0]))
                self._remember(kind, text, report, float("inf"))
                return report
        return None

    def put(self, kind: str, text: str, report: GuideReport, *, brief: bool = False) -> None:
        """Keep a verdict; a brief one for a minute, and never on disk."""
        self._remember(kind, text, report, time.monotonic() + BRIEF_S if brief else float("inf"))
        if self._file is None or brief or report.code == Code.GUIDANCE_UNAVAILABLE.value:
            return
        with suppress(sqlite3.Error), self._file:
            values = (self._file_key(kind, text), orjson.dumps(tuple(report)), time.time())
            self._file.execute("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?)", values)
            self._file.execute(
                "DELETE FROM verdict WHERE key IN (SELECT key FROM verdict ORDER BY stored DESC LIMIT -1 OFFSET ?)",
                (MAX_FILE_VERDICTS,),
            )

    def _remember(self, kind: str, text: str, report: GuideReport, expires: float) -> None:
        key = (kind, text)
        with self._lock:
            if key in self._memory:
                self._drop(key)
            self._memory[key] = (report, expires)
            self._memory_bytes += _size(key, report)
            while self._memory_bytes > MAX_MEMORY_BYTES:
                self._drop(next(iter(self._memory)))

    def _drop(self, key: Key) -> None:
        report, _ = self._memory.pop(key)
        self._memory_bytes -= _size(key, report)

    def _file_key(self, kind: str, text: str) -> str:
        return hashlib.sha256("\0".join((self._context, kind, text)).encode()).hexdigest()


def _size(key: Key, report: GuideReport) -> int:
    return _VERDICT_BYTES + len(key[1]) + len(report.engine_text)


def _open(path: Path) -> sqlite3.Connection | None:
    """The file, made where it is missing; None where it can't be used."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=2.0, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS verdict (key TEXT PRIMARY KEY, report BLOB, stored REAL)")
    except (OSError, sqlite3.Error):
        return None
    return connection
