"""Exports the ledger's rows page by page, so neither memory nor the write-ahead log grows with the ledger.

Rejected rows that are only counted (`rejections`) are no rows of an export.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from llmstack.ledger.money import dollar_text, dollars
from llmstack.ledger.period import Period

PAGE_ROWS = 10_000
_TEXTS = ("request_id", "tenant", "task", "schema_id", "engine_hash", "boot_id")
_COUNTS = ("num_prompt_tokens", "num_completion_tokens")
# Columns of an export, and those of the ledger that they come from.
MONEY_COLUMNS = {"projected_usd": "projected_nano_usd", "actual_usd": "actual_nano_usd"}
TIME_COLUMNS = {"admitted": "admitted_ns", "closed": "closed_ns"}
COLUMNS = (
    *("id", *_TEXTS, "row_number", "canary", *_COUNTS, *MONEY_COLUMNS),
    *("queue_delay_us", "flags", "state", "swept_as", "code", *TIME_COLUMNS),
)
SELECTED = ", ".join(MONEY_COLUMNS.get(name) or TIME_COLUMNS.get(name) or name for name in COLUMNS)

Row = dict[str, Any]
OnPage = Callable[[int], None]


def count_rows(connection: sqlite3.Connection, period: Period, *, with_canary: bool) -> int:
    """The number of rows that an export contains at this moment."""
    row = connection.execute(
        "SELECT count(*) FROM request WHERE admitted_ns >= ? AND admitted_ns < ? AND canary <= ?",
        (*period, with_canary),
    ).fetchone()
    return int(row[0])


def read_pages(connection: sqlite3.Connection, period: Period, *, with_canary: bool) -> Iterator[list[Row]]:
    """The rows ordered by id. Each page is a query of its own, so no read lock is held between pages."""
    last_id = 0
    while page := read_page(connection, last_id, period, with_canary=with_canary):
        yield page
        last_id = page[-1]["id"]


def read_page(connection: sqlite3.Connection, after_id: int, period: Period, *, with_canary: bool) -> list[Row]:
    """The first rows with an id beyond `after_id`, ordered by id."""
    found = connection.execute(
        f"SELECT {SELECTED} FROM request WHERE id > ? AND admitted_ns >= ? AND admitted_ns < ? AND canary <= ? "  # noqa: S608
        "ORDER BY id LIMIT ?",
        (after_id, *period, with_canary, PAGE_ROWS),
    ).fetchall()
    return as_rows(found)


def as_rows(found: Iterable[Sequence[Any]]) -> list[Row]:
    """Rows of a query for the columns `SELECTED`."""
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]


def write_csv(pages: Iterator[list[Row]], output: BinaryIO, on_page: OnPage) -> None:
    """RFC 4180 with a header. Commas separate flags."""
    text = io.TextIOWrapper(output, "utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for page in pages:
        for row in page:
            plain = _plain(row)
            writer.writerow([*({**plain, "flags": row["flags"], "canary": int(plain["canary"])}.values())])
        on_page(len(page))
    text.flush()
    text.detach()


def write_jsonl(pages: Iterator[list[Row]], output: BinaryIO, on_page: OnPage) -> None:
    """One JSON object per line."""
    for page in pages:
        output.writelines(json.dumps(_plain(row), separators=(",", ":")).encode() + b"\n" for row in page)
        on_page(len(page))
    output.flush()


def write_parquet(pages: Iterator[list[Row]], output: BinaryIO, on_page: OnPage) -> None:
    """Money as decimal128(38, 9), times as UTC timestamps in microseconds (as Python's datetime), flags as lists.

    Raises:
        ImportError: pyarrow is not installed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _parquet_schema(pa)
    with pq.ParquetWriter(output, schema, compression="zstd", write_page_checksum=True) as writer:
        for page in pages:
            writer.write_table(pa.Table.from_pylist([_for_parquet(row) for row in page], schema=schema))
            on_page(len(page))


WRITERS = {"csv": write_csv, "parquet": write_parquet, "jsonl": write_jsonl}


@contextmanager
def replace_when_complete(path: Path) -> Iterator[BinaryIO]:
    """A temporary file that replaces `path` when the context ends without an error, and is deleted otherwise.

    Raises:
        OSError: the directory can't be written.
    """
    with tempfile.NamedTemporaryFile(dir=path.absolute().parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file  # type: ignore[misc]
            file.flush()
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)  # noqa: PTH108 - it may be gone
            raise


def _plain(row: Row) -> Row:
    """A row for text formats: money as exact decimals, times as RFC 3339 with nanoseconds."""
    typed = _typed(row)
    money = {name: dollar_text(row[name]) for name in MONEY_COLUMNS}
    times = {name: None if row[name] is None else _rfc3339(row[name]) for name in TIME_COLUMNS}
    return {**typed, **money, **times}


def _typed(row: Row) -> Row:
    flags = row["flags"].split(",") if row["flags"] else []
    return {
        **row,
        **{name: dollars(row[name]) for name in MONEY_COLUMNS},
        "flags": flags,
        "canary": bool(row["canary"]),
    }


def _for_parquet(row: Row) -> Row:
    return {**_typed(row), **{name: None if row[name] is None else row[name] // 1_000 for name in TIME_COLUMNS}}


def _rfc3339(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _parquet_schema(pa: Any) -> Any:
    special = {
        **{name: pa.decimal128(38, 9) for name in MONEY_COLUMNS},
        **{name: pa.timestamp("us", tz="UTC") for name in TIME_COLUMNS},
        **{name: pa.string() for name in (*_TEXTS, "state", "swept_as", "code")},
        "canary": pa.bool_(),
        "flags": pa.list_(pa.string()),
    }
    return pa.schema([(name, special.get(name, pa.int64())) for name in COLUMNS])
