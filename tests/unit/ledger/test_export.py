"""`llmstack ledger export`."""

import csv
import io
import json
from datetime import datetime, timezone
from decimal import Decimal

import pytest

from llm_policy.ledger.rejection_count import SAMPLE_ROWS
from llmstack.ledger.export import COLUMNS, WRITERS, read_pages
from llmstack.ledger.period import Period
from tests.ledgers import admit, open_ledger
from tests.unit.ledger.ledger_command import run, run_json


def test_csv_has_every_row_with_exact_money_and_time(ledger, tmp_path):
    rows = list(csv.DictReader(io.StringIO(run(tmp_path, "export").stdout)))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 8
    assert rows[0]["actual_usd"] == "0.000062000"
    assert rows[0]["admitted"] == "2024-10-04T12:00:00.000000000Z"
    assert rows[0]["flags"] == "cost_breach,truncated"
    assert rows[-1]["closed"] == ""


def test_an_export_says_how_many_rejected_rows_have_no_row(flooded, tmp_path):
    done = run(tmp_path, "export")
    assert len(done.stdout.splitlines()) == 1 + 8 + 2 * SAMPLE_ROWS
    assert "4 rejected rows are only counted: see `llmstack ledger rejections`" in done.stderr


def test_jsonl_has_one_object_per_row(ledger, tmp_path):
    rows = [json.loads(line) for line in run(tmp_path, "export", "--format", "jsonl", "--canary").stdout.splitlines()]
    assert len(rows) == 9
    assert rows[0]["flags"] == ["cost_breach", "truncated"]
    assert sum(Decimal(row["actual_usd"]) for row in rows if not row["canary"] and row["closed"]) == Decimal(
        run_json(tmp_path, "report")["total"]["cost_usd"]
    )


def test_parquet_has_typed_columns(ledger, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", exc_type=ImportError)
    target = tmp_path / "rows.parquet"
    run(tmp_path, "export", "--format", "parquet", "--output", str(target))
    table = parquet.read_table(target)
    assert table.num_rows == 8
    assert table.column_names == list(COLUMNS)
    first = table.slice(0, 1).to_pylist()[0]
    assert first["actual_usd"] == Decimal("0.000062")
    assert first["flags"] == ["cost_breach", "truncated"]
    assert first["admitted"] == datetime(2024, 10, 4, 12, tzinfo=timezone.utc)
    assert table["closed"].null_count == 1
    assert str(table.schema.field("admitted").type) == "timestamp[us, tz=UTC]"


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_an_export_reads_page_by_page(name, ledger, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", exc_type=ImportError)
    sizes = []
    for page_rows in (2, 1_000):
        monkeypatch.setattr("llmstack.ledger.export.PAGE_ROWS", page_rows)
        WRITERS[name](read_pages(ledger.connection, Period(), with_canary=False), io.BytesIO(), sizes.append)
    assert sizes == [2, 2, 2, 2, 8]


def test_a_failed_export_leaves_no_file(ledger, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(WRITERS, "csv", fail)
    run(tmp_path, "export", "--output", str(tmp_path / "rows.csv"), exit_code=2)
    assert not list(tmp_path.glob("*rows.csv*"))


def test_an_export_holds_no_lock_between_its_pages(ledger, tmp_path):
    pages = read_pages(ledger.connection, Period(), with_canary=True)
    next(pages)
    writer = open_ledger(tmp_path)
    admit(writer)
    # Emptying the write-ahead log needs every lock; `busy` is 1 while any reader has one.
    busy, *_ = writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0
