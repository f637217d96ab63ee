"""The rows of the ledger and of its archive together, ordered by id, while a server writes and rows are archived.

One transaction reads a page of the ledger and how far each file counts. Every row with an id up to the end of that page
is either in the page or counts in a file, so rows that are archived between two pages are neither lost nor repeated.
"""

from __future__ import annotations

import heapq
import itertools
import sqlite3
from collections.abc import Iterator
from operator import itemgetter

from llm_policy.ledger.archive_file import ArchiveFile, read_counted_files
from llmstack.ledger import export
from llmstack.ledger.archive_reader import ArchiveReader, may_have, read_rows
from llmstack.ledger.export import Row
from llmstack.ledger.period import Period

_LAST_ID = (1 << 63) - 1
_by_id = itemgetter("id")


def read_all_pages(
    connection: sqlite3.Connection, archive: ArchiveReader, period: Period, *, with_canary: bool
) -> Iterator[list[Row]]:
    """The pages; no read lock is held between them.

    Raises:
        sqlite3.Error: the ledger can't be read.
        ArchiveError: the archive can't be read.
        ImportError: there is an archive, and pyarrow is not installed.
    """
    streams: dict[str, _FileRows] = {}
    last_id = 0
    while last_id < _LAST_ID:
        connection.execute("BEGIN")
        try:
            page = export.read_page(connection, last_id, period, with_canary=with_canary)
            files = [file for file in read_counted_files(connection) if may_have(file, period)]
        finally:
            connection.execute("COMMIT")
        after_id, last_id = last_id, page[-1]["id"] if page else _LAST_ID
        for file in files:
            if file.name not in streams:
                streams[file.name] = _FileRows(archive, file, period)
        archived = [streams[file.name].between(after_id, last_id, file) for file in files]
        merged = heapq.merge(page, *archived, key=_by_id)
        while chunk := list(itertools.islice(merged, export.PAGE_ROWS)):
            yield chunk


def count_all_rows(connection: sqlite3.Connection, period: Period, *, with_canary: bool) -> int:
    """The number of rows of the ledger in the period, and of all rows in the files that may have some."""
    num_archived = sum(file.num_rows for file in read_counted_files(connection) if may_have(file, period))
    return num_archived + export.count_rows(connection, period, with_canary=with_canary)


class _FileRows:
    """The rows of one file, read once from its first to its last."""

    def __init__(self, archive: ArchiveReader, file: ArchiveFile, period: Period) -> None:
        self._rows = itertools.chain.from_iterable(read_rows(archive.path_of(file)))
        self._period = period
        self._next: Row | None = None

    def between(self, after_id: int, last_id: int, file: ArchiveFile) -> Iterator[Row]:
        """The next rows that count in the file, with an id beyond `after_id` and up to `last_id`."""
        while True:
            row = self._next or next(self._rows, None)
            self._next = row
            if row is None or row["id"] > last_id:
                return
            self._next = None
            if (
                row["id"] > after_id
                and file.counts(row["id"])
                and self._period.from_ns <= row["admitted"] < self._period.until_ns
            ):
                yield row
