"""Reads the Parquet files of archived rows.

Times in a file have microseconds. Money and everything else is as the ledger had it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from llm_policy.ledger.archive_file import ArchiveFile
from llm_policy.ledger.budget_window import NS_PER_DAY
from llmstack.ledger.export import COLUMNS, MONEY_COLUMNS, TIME_COLUMNS, Row
from llmstack.ledger.period import Period

DIRECTORY_NAME = "archive"
INSTALL_PYARROW = "pyarrow is not installed, or needs another numpy: `pip install pyarrow==25.0.1`"
_PLACES = 9
_BATCH_ROWS = 10_000
_NS_PER_US = 1_000
_SUMMED = ("num_prompt_tokens", "num_completion_tokens", "actual_usd")


class ArchiveError(Exception):
    """Archived rows can't be read or written; `next_step` is the operator's remedy."""

    def __init__(self, text: str, next_step: str) -> None:
        super().__init__(text)
        self.next_step = next_step


class GroupSums(NamedTuple):
    """The sums of the rows of one group."""

    num_rows: int
    num_prompt_tokens: int
    num_completion_tokens: int
    nano_usd: int


class ArchiveReader:
    """The archive in `directory`; files that are not there are looked for where they were written.

    Every method needs pyarrow. It raises ImportError without it, and ArchiveError when a file can't be read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path_of(self, file: ArchiveFile) -> Path:
        """The path of a file.

        Raises:
            ArchiveError: it does not exist.
        """
        paths = [self._directory / file.name, Path(file.directory) / file.name]
        for path in paths:
            if path.is_file():
                return path
        raise ArchiveError(
            f"{paths[0]} does not exist; it has {file.num_rows:,} archived rows and was written to {file.directory}",
            "give --archive the directory of the archive, or restore the file from a backup",
        )

    def group(
        self, file: ArchiveFile, keys: Sequence[str], period: Period
    ) -> Iterator[tuple[tuple[Any, ...], GroupSums]]:
        """The sums of the rows that count in the file, by `keys`: columns of an export, or `day` for the UTC day.

        Days are texts (2026-11-30) and flags are joined by commas. A key may come several times.
        """
        for table in self._tables(file, period, keys):
            grouped = table.group_by(list(keys), use_threads=False)
            sums = grouped.aggregate([([], "count_all"), *((name, "sum") for name in _SUMMED)])
            columns = [sums[name].to_pylist() for name in (*keys, "count_all", *(f"{name}_sum" for name in _SUMMED))]
            for row in zip(*columns, strict=True):
                *key, num_rows, prompt, completion, usd = row
                yield tuple(key), GroupSums(num_rows, prompt, completion, _nano(usd))

    def _tables(self, file: ArchiveFile, period: Period, keys: Sequence[str]) -> Iterator[Any]:
        """The rows that count in the file and were admitted in the period, with the columns that `group` needs."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = list(dict.fromkeys(["id", "admitted", *_SUMMED, *(key for key in keys if key != "day")]))
        for batch in _batches(self.path_of(file), columns):
            table = pa.Table.from_batches([batch])
            admitted_us = table["admitted"].cast(pa.int64())
            is_counted = pc.and_(
                pc.less_equal(table["id"], file.counted_through),
                pc.invert(pc.is_in(table["id"], pa.array(sorted(file.excluded), pa.int64()))),
            )
            in_period = pc.and_(
                pc.greater_equal(admitted_us, -(-period.from_ns // _NS_PER_US)),
                pc.less(admitted_us, -(-period.until_ns // _NS_PER_US)),
            )
            if "flags" in keys:
                table = table.set_column(columns.index("flags"), "flags", pc.binary_join(table["flags"], ","))
            if "day" in keys:
                days = table["admitted"].cast(pa.timestamp("us")).cast(pa.date32()).cast(pa.string())
                table = table.append_column("day", days)
            yield table.filter(pc.and_(is_counted, in_period))


def read_rows(path: Path) -> Iterator[list[Row]]:
    """All rows of a file in pages, by id, in the form of `export.read_pages`.

    Raises:
        ArchiveError: the file can't be read.
        ImportError: pyarrow is not installed.
    """
    for batch in _batches(path, list(COLUMNS)):
        columns = [_column(name, batch.column(position)) for position, name in enumerate(COLUMNS)]
        yield [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def may_have(file: ArchiveFile, period: Period) -> bool:
    """Whether the file may have rows that were admitted in the period."""
    return file.first_day * NS_PER_DAY < period.until_ns and file.end_day * NS_PER_DAY > period.from_ns


def _batches(path: Path, columns: list[str]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with _read_errors(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
            # `columns` says which ones, not in which order.
            yield batch.select(columns)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(f"{path}: {error}", "restore the file from a backup") from error


def _column(name: str, values: Any) -> list[Any]:
    import pyarrow as pa

    if name in MONEY_COLUMNS:
        return [_nano(value) for value in values.to_pylist()]
    if name in TIME_COLUMNS:
        return [None if value is None else value * _NS_PER_US for value in values.cast(pa.int64()).to_pylist()]
    if name == "flags":
        return [",".join(value) for value in values.to_pylist()]
    if name == "canary":
        return [int(value) for value in values.to_pylist()]
    return list(values.to_pylist())


def _nano(usd: Any) -> int:
    return int(usd.scaleb(_PLACES))
