"""Reports on guides: in memory, bounded in bytes, and in a SQLite file that all instances share.

A report is valid for the exact text of a guide (the order of a schema's properties is the order of the answer's), one
tokenizer, one version of XGrammar and one set of limits.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import NamedTuple

import orjson
from cachetools import LRUCache

from llm_policy.errors import Code
from llm_policy.guidance.compile.guide_report import GuideReport

MAX_MEMORY_BYTES = 32 << 20
MAX_FILE_REPORTS = 20_000
# A guide that overran or killed its worker is tried again after this time; other rejections are final.
TEMPORARY_S = 60.0
_REPORT_OVERHEAD_BYTES = 512

Key = tuple[str, str]


class _Entry(NamedTuple):
    report: GuideReport
    expires: float  # monotonic
    num_bytes: int


class GuideCache:
    """Reports by guide type and text.

    `context` identifies everything else that a report depends on. With `path` None nothing is kept on disk. If the
    disk is full or read-only, reports are still kept in memory.
    """

    def __init__(self, path: Path | None, context: str) -> None:
        self._context = context
        self._memory: LRUCache[Key, _Entry] = LRUCache(MAX_MEMORY_BYTES, getsizeof=lambda entry: entry.num_bytes)
        self._lock = threading.Lock()
        self._file = _open(path) if path is not None else None

    def get(self, kind: str, text: str) -> GuideReport | None:
        """The report in memory; None if there is none or it has expired."""
        with self._lock:
            entry = self._memory.get((kind, text))
            if entry is None:
                return None
            if entry.expires < time.monotonic():
                del self._memory[kind, text]
                return None
            return entry.report

    def load(self, kind: str, text: str) -> GuideReport | None:
        """The report in the file, now also in memory; None if there is none."""
        if self._file is None:
            return None
        with suppress(sqlite3.Error):
            query = "SELECT report FROM guide_report WHERE key = ?"
            row = self._file.execute(query, (self._file_key(kind, text),)).fetchone()
            if row is not None:
                report = GuideReport(*orjson.loads(row[0]))
                self._remember(kind, text, report, inf)
                return report
        return None

    def put(self, kind: str, text: str, report: GuideReport, *, is_temporary: bool = False) -> None:
        """Keep a report; a temporary one for `TEMPORARY_S` in memory only."""
        self._remember(kind, text, report, time.monotonic() + TEMPORARY_S if is_temporary else inf)
        if self._file is None or is_temporary or report.code == Code.GUIDANCE_UNAVAILABLE.value:
            return
        with suppress(sqlite3.Error), self._file:
            values = (self._file_key(kind, text), orjson.dumps(tuple(report)), time.time())
            self._file.execute("INSERT OR REPLACE INTO guide_report VALUES (?, ?, ?)", values)
            self._file.execute(
                "DELETE FROM guide_report WHERE key IN "
                "(SELECT key FROM guide_report ORDER BY stored DESC LIMIT -1 OFFSET ?)",
                (MAX_FILE_REPORTS,),
            )

    def _remember(self, kind: str, text: str, report: GuideReport, expires: float) -> None:
        num_bytes = _REPORT_OVERHEAD_BYTES + len(text) + len(report.engine_text)
        with self._lock, suppress(ValueError):  # ValueError: larger than the whole cache
            self._memory[kind, text] = _Entry(report, expires, num_bytes)

    def _file_key(self, kind: str, text: str) -> str:
        return hashlib.sha256("\0".join((self._context, kind, text)).encode()).hexdigest()


def _open(path: Path) -> sqlite3.Connection | None:
    """The cache file, created if it is missing; None if it can't be used."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=2.0, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS guide_report (key TEXT PRIMARY KEY, report BLOB, stored REAL)")
    except (OSError, sqlite3.Error):
        return None
    return connection
