"""Moves closed rows of the ledger into Parquet files, one for each month and run: `month=2026-11/rows-….parquet`.

A file goes through these states (`archive_file.state`), each change a transaction:

    writing    its temporary file is written, made durable, read back and compared, and only then gets its name;
               its rows are all in the ledger, and the next run deletes what an interrupted one left
    removing   its rows are removed from the ledger batch by batch, each compared with the file once more;
               the next run goes on where an interrupted one ended
    complete

A row that changed in between (it was answered late, or the size budget made it a count) is excluded from its file: the
file is written anew without it. Requests wait for a batch's transaction at the most.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from llm_policy.ledger import archive_file
from llm_policy.ledger.archive_file import REMOVING, WRITING, ArchiveFile
from llm_policy.ledger.budget_window import NS_PER_DAY, day_of
from llm_policy.ledger.database import transaction
from llmstack.ledger.archive_reader import ArchiveError, ArchiveReader, read_rows
from llmstack.ledger.export import SELECTED, TIME_COLUMNS, Row, as_rows, write_parquet
from llmstack.ledger.money import dollar_text
from llmstack.ledger.row_group import KEYS, RowGroup, metric_sums

PAGE_ROWS = 10_000
REMOVE_BATCH_ROWS = 100  # requests wait for the write lock meanwhile
# Between two batches the lock is free for this many times the duration of a batch.
_PAUSE_SHARE, _MIN_PAUSE_S = 3, 0.001
_LOCK_NAME = "archive.lock"
_PART_SUFFIX = ".part"

# Rows as a file holds them: times have microseconds.
_IN_US = {column: f"{column} - {column} % 1000" for column in TIME_COLUMNS.values()}
_SELECTED = ", ".join(_IN_US.get(column, column) for column in SELECTED.split(", "))
# The newest row stays, because SQLite would reuse its id.
_ARCHIVABLE = (
    "FROM request WHERE admitted_ns < ? AND canary = 0 AND state <> 'admitted' AND id < (SELECT max(id) FROM request)"
)
_MONTHS = (
    "SELECT strftime('%Y-%m', admitted_ns / 1000000000, 'unixepoch'), min(admitted_ns), max(admitted_ns), min(id), "
    "max(id), count(*), sum(CASE WHEN state = 'refused' THEN 0 ELSE num_prompt_tokens END), "
    f"sum(num_completion_tokens), sum(actual_nano_usd) {_ARCHIVABLE} GROUP BY 1 ORDER BY 1"
)
_PAGE = (
    f"SELECT {_SELECTED} FROM request WHERE id > ? AND id <= ? AND admitted_ns >= ? AND admitted_ns < ? "  # noqa: S608
    "AND canary = 0 AND state <> 'admitted' ORDER BY id LIMIT ?"
)
_BATCH = f"SELECT {_SELECTED} FROM request WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608 - constants

OnProgress = Callable[[str, int, int], None]  # what is done, how much of it, and its total


class Month(NamedTuple):
    """Rows of one month that can be archived. `end_day` is exclusive; prompt tokens are those sent to the engine."""

    month: str
    first_day: int
    end_day: int
    first_id: int
    last_id: int
    num_rows: int
    num_prompt_tokens: int
    num_completion_tokens: int
    cost_nano_usd: int

    def as_json(self) -> dict[str, Any]:
        """The sums, with the cost also as an exact decimal."""
        names = ("month", "num_rows", "num_prompt_tokens", "num_completion_tokens", "cost_nano_usd")
        return {**{name: getattr(self, name) for name in names}, "cost_usd": dollar_text(self.cost_nano_usd)}


class ArchiveBusy(ArchiveError):
    """Another process archives this ledger."""

    def __init__(self) -> None:
        super().__init__("another `llmstack ledger archive` works on this ledger", "wait until it has ended")


def find_months(connection: sqlite3.Connection, before_day: int) -> list[Month]:
    """The closed rows admitted before this day (since 1970), by month; canaries are not archived."""
    rows = connection.execute(_MONTHS, (before_day * NS_PER_DAY,)).fetchall()
    return [Month(row[0], day_of(row[1]), day_of(row[2]) + 1, *row[3:]) for row in rows]


def unfinished_files(connection: sqlite3.Connection) -> list[ArchiveFile]:
    """The files that an interrupted run left in an earlier state."""
    return [file for file in archive_file.read_files(connection) if file.state in (WRITING, REMOVING)]


@contextmanager
def archive_lock(state_dir: Path) -> Iterator[None]:
    """Lets one process at a time archive; the kernel releases the lock when the process ends.

    Raises:
        ArchiveBusy: another process does.
        OSError: the lock file can't be created.
    """
    descriptor = os.open(state_dir / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArchiveBusy from None
        yield
    finally:
        os.close(descriptor)


class Archiver:
    """Archives rows of the ledger behind `connection` into `directory`. Hold `archive_lock` meanwhile.

    Every method raises sqlite3.Error, OSError, ArchiveError, or ImportError without pyarrow. Whatever ends it, each row
    is counted once.
    """

    def __init__(self, connection: sqlite3.Connection, directory: Path, on_progress: OnProgress) -> None:
        self._connection = connection
        self._directory = directory.absolute()
        self._reader = ArchiveReader(self._directory)
        self._on_progress = on_progress

    def finish(self, file: ArchiveFile) -> None:
        """Complete a file of an interrupted run, or delete it if it was not written completely."""
        if file.state == WRITING:
            self._discard(file)
        else:
            self._remove_rows(file)

    def archive(self, month: Month) -> ArchiveFile:
        """Write a file with the rows of `month` and remove them from the ledger. Returns the complete file."""
        name = f"month={month.month}/rows-{month.first_id}-{month.last_id}-{secrets.token_hex(4)}.parquet"
        file = ArchiveFile(name, str(self._directory), month.first_day, month.end_day)
        with self._durable_transaction():
            archive_file.begin_file(self._connection, file)
        try:
            num_rows = self._write(file, month)
            with self._durable_transaction():
                archive_file.begin_removal(self._connection, name, num_rows)
        except BaseException:
            with suppress(sqlite3.Error, OSError):  # the next run tries again
                self._discard(file)
            raise
        return self._remove_rows(file._replace(state=REMOVING, num_rows=num_rows))

    def _write(self, file: ArchiveFile, month: Month) -> int:
        """Write the rows and give the file its name. Returns their number."""
        path = self._directory / file.name
        _create_directory(path.parent)
        return self._write_file(path, self._read_month(month), f"writing {month.month}", month.num_rows)

    def _write_file(self, path: Path, pages: Iterator[list[Row]], what: str, num_expected: int) -> int:
        """Write, make durable, read back and compare a file, and only then give it its name."""
        part = _part_of(path)
        written, read = _Content(), _Content()
        with part.open("wb") as output:
            write_parquet(
                written.count_all(pages), output, lambda _: self._on_progress(what, written.num_rows, num_expected)
            )
            output.flush()
            os.fsync(output.fileno())
        for page in read_rows(part):
            read.add(page)
            self._on_progress("reading back", read.num_rows, written.num_rows)
        if differing := read.differences(written):
            raise ArchiveError(
                f"{part} does not hold what was written to it: {'; '.join(differing)}",
                "nothing was removed from the ledger: check the disk and archive to another --directory",
            )
        part.rename(path)
        _sync_directory(path.parent)
        return written.num_rows

    def _read_month(self, month: Month) -> Iterator[list[Row]]:
        after_id = 0
        period = (month.first_day * NS_PER_DAY, month.end_day * NS_PER_DAY)
        while found := self._connection.execute(_PAGE, (after_id, month.last_id, *period, PAGE_ROWS)).fetchall():
            yield as_rows(found)
            after_id = found[-1][0]

    def _remove_rows(self, file: ArchiveFile) -> ArchiveFile:
        """Remove the file's rows from the ledger, from where an interrupted run ended. Returns the complete file."""
        path = self._reader.path_of(file)
        num_done = 0
        for page in read_rows(path):
            for start in range(0, len(page), REMOVE_BATCH_ROWS):
                batch = [row for row in page[start : start + REMOVE_BATCH_ROWS] if row["id"] > file.counted_through]
                if batch:
                    self._remove_batch(file, batch)
            num_done += len(page)
            self._on_progress("removing rows", num_done, file.num_rows)
        return self._complete(path, file.name)

    def _remove_batch(self, file: ArchiveFile, batch: Sequence[Row]) -> None:
        # As a rule no row has changed: then little is left to do while requests wait.
        ids, expected = json.dumps([row["id"] for row in batch]), [tuple(row.values()) for row in batch]
        all_sums = _sums_of(batch)
        with transaction(self._connection):
            began_s = time.monotonic()
            found = set(self._connection.execute(_BATCH, (ids,)))
            removed = [row for row, values in zip(batch, expected, strict=True) if values in found]
            excluded = [row["id"] for row, values in zip(batch, expected, strict=True) if values not in found]
            archive_file.move_rows(
                self._connection,
                file.name,
                [row["id"] for row in removed],
                _sums_of(removed) if excluded else all_sums,
                excluded,
                through=batch[-1]["id"],
            )
        time.sleep(max(_MIN_PAUSE_S, _PAUSE_SHARE * (time.monotonic() - began_s)))

    def _complete(self, path: Path, name: str) -> ArchiveFile:
        file = self._recorded(name)
        num_rows = file.num_rows
        if file.excluded:
            pages = ([row for row in page if row["id"] not in file.excluded] for page in read_rows(path))
            num_rows = self._write_file(path, pages, "writing anew", num_rows)
        with self._durable_transaction():
            archive_file.end_removal(self._connection, name, num_rows)
        return self._recorded(name)

    def _recorded(self, name: str) -> ArchiveFile:
        return next(file for file in archive_file.read_files(self._connection) if file.name == name)

    def _discard(self, file: ArchiveFile) -> None:
        """Delete a file none of whose rows counts in it."""
        path = Path(file.directory) / file.name
        for each in (path, _part_of(path)):
            each.unlink(missing_ok=True)
        with transaction(self._connection):
            archive_file.forget_file(self._connection, file.name)

    @contextmanager
    def _durable_transaction(self) -> Iterator[None]:
        """A transaction that survives a power cut, so that the ledger knows every file that exists."""
        self._connection.execute("PRAGMA synchronous = FULL")
        try:
            with transaction(self._connection):
                yield
        finally:
            self._connection.execute("PRAGMA synchronous = NORMAL")


class _Content:
    """Number, sums and a digest of rows, ids included."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._sums = dict.fromkeys(("num_prompt_tokens", "num_completion_tokens", "projected_usd", "actual_usd"), 0)
        self._ids, self._rows = hashlib.blake2b(), hashlib.blake2b()

    def add(self, page: Sequence[Row]) -> None:
        """Add rows, as a file holds them."""
        self.num_rows += len(page)
        for name in self._sums:
            self._sums[name] += sum(row[name] for row in page)
        for row in page:
            self._ids.update(b"%d," % row["id"])
            self._rows.update(repr(row).encode())

    def count_all(self, pages: Iterator[list[Row]]) -> Iterator[list[Row]]:
        """The pages, added as they pass."""
        for page in pages:
            self.add(page)
            yield page

    def differences(self, other: _Content) -> list[str]:
        """What differs, as texts."""
        mine, others = self._values(), other._values()
        return [f"{name} {mine[name]} instead of {others[name]}" for name in mine if mine[name] != others[name]]

    def _values(self) -> dict[str, Any]:
        digests = {"digest of the ids": self._ids.hexdigest(), "digest of the rows": self._rows.hexdigest()}
        return {"number of rows": self.num_rows, **{f"sum of {key}": n for key, n in self._sums.items()}, **digests}


def _sums_of(rows: Sequence[Row]) -> archive_file.Sums:
    summed = ("num_prompt_tokens", "num_completion_tokens", "actual_usd")
    return metric_sums(RowGroup(*(*(row[key] for key in KEYS), 1, *(row[name] for name in summed))) for row in rows)


def _part_of(path: Path) -> Path:
    """The temporary file: no pattern for Parquet files matches it."""
    return path.with_name(f".{path.name}{_PART_SUFFIX}")


def _create_directory(path: Path) -> None:
    """Create it, and make it durable in the directories above it."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _sync_directory(each.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
