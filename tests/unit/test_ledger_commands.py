"""`llmstack ledger`: what operators see of the books."""

import csv
import io
import json
import time
from contextlib import closing
from datetime import datetime, timezone
from decimal import Decimal

import pytest
from typer.testing import CliRunner

from llm_policy.ledger.database import open_to_read
from llmstack.cli.app import app
from llmstack.events.retention import prune_step
from llmstack.ledger.export import COLUMNS, WRITERS, pages
from llmstack.ledger.money import dollar_text
from llmstack.ledger.report import Period
from llmstack.ledger.write_bench import fill
from tests.books import ENTRY, admit, open_ledger, open_row, settlement

DAY_NS = 86_400 * 10**9
NOON_NS = 20_000 * DAY_NS + DAY_NS // 2  # 2024-10-04
CANARY = ENTRY._replace(tenant="llmstack-canary", is_canary=True)


@pytest.fixture
def ledger(tmp_path):
    """Two days, two tenants, every state but lost."""
    ledger = open_ledger(tmp_path)
    other = ENTRY._replace(tenant="globex", task="")
    for now_ns in (NOON_NS, NOON_NS + DAY_NS):
        ledger.settle([settlement(admit(ledger, ENTRY, now_ns), flags=["cost_breach", "truncated"])], now_ns + 1)
        ledger.settle([settlement(admit(ledger, other, now_ns), other)], now_ns + 1)
    ledger.enter([[other._replace(code="unknown_task")]], NOON_NS)
    ledger.refuse([open_row(admit(ledger, ENTRY, NOON_NS))], "guidance_unavailable", NOON_NS + 1)
    ledger.settle([settlement(admit(ledger, CANARY, NOON_NS), CANARY)], NOON_NS + 1)
    admit(ledger, ENTRY, NOON_NS)
    ledger.close_unanswered(NOON_NS + DAY_NS)
    admit(ledger, ENTRY)
    yield ledger
    ledger.connection.close()


def run(tmp_path, *arguments, exit_code=0):
    done = CliRunner().invoke(app, ["ledger", *arguments, "--state-dir", str(tmp_path)])
    assert done.exit_code == exit_code, done.output
    return done


def run_json(tmp_path, *arguments, exit_code=0):
    return json.loads(run(tmp_path, *arguments, "--json", exit_code=exit_code).stdout)


def test_a_report_adds_up_by_day(ledger, tmp_path):
    report = run_json(tmp_path, "report")
    days = {group["day"]: group for group in report["groups"]}
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    assert list(days) == ["2024-10-04", "2024-10-05", today]
    first = days["2024-10-04"]
    assert (first["settled"], first["refused"], first["cancelled"], first["open"]) == (2, 2, 1, 0)
    assert first["cost_usd"] == "0.000174000"  # two answers and a prompt
    assert first["num_prompt_tokens"] == 1_500
    assert report["total"]["cost_nano_usd"] == sum(day["cost_nano_usd"] for day in days.values())


def test_a_report_goes_deeper_with_each_by(ledger, tmp_path):
    report = run_json(tmp_path, "report", "--by", "tenant", "--by", "task")
    assert [(group["tenant"], group["task"], group["num_rows"]) for group in report["groups"]] == [
        ("acme", "judge", 5),
        ("globex", "", 3),
    ]


def test_a_report_leaves_out_the_canary_unless_asked(ledger, tmp_path):
    assert run_json(tmp_path, "report", "--canary")["total"]["num_rows"] == 9
    assert run_json(tmp_path, "report")["total"]["num_rows"] == 8


def test_a_report_is_limited_to_its_days(ledger, tmp_path):
    report = run_json(tmp_path, "report", "--since", "2024-10-05", "--until", "2024-10-05")
    assert [group["day"] for group in report["groups"]] == ["2024-10-05"]
    assert report["total"]["num_rows"] == 2


def test_a_report_of_nothing_is_zero(tmp_path):
    open_ledger(tmp_path)
    assert run_json(tmp_path, "report") == {"groups": [], "total": run_json(tmp_path, "report")["total"]}
    assert run_json(tmp_path, "report")["total"]["cost_usd"] == "0.000000000"


def test_the_table_shows_exact_money(ledger, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    output = run(tmp_path, "report", "--by", "engine").stdout
    assert "0.000298000" in output
    assert "sha256:aaaaaaaaaaaa" in output


def test_days_the_wrong_way_round_are_refused(ledger, tmp_path):
    done = run(tmp_path, "report", "--since", "2024-10-05", "--until", "2024-10-04", exit_code=2)
    assert "next:" in done.stderr


def test_csv_has_every_row_with_exact_money_and_time(ledger, tmp_path):
    rows = list(csv.DictReader(io.StringIO(run(tmp_path, "export").stdout)))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 8
    assert rows[0]["actual_usd"] == "0.000062000"
    assert rows[0]["admitted"] == "2024-10-04T12:00:00.000000000Z"
    assert rows[0]["flags"] == "cost_breach,truncated"
    assert rows[-1]["closed"] == ""


def test_jsonl_has_one_object_a_row(ledger, tmp_path):
    rows = [json.loads(line) for line in run(tmp_path, "export", "--format", "jsonl", "--canary").stdout.splitlines()]
    assert len(rows) == 9
    assert rows[0]["flags"] == ["cost_breach", "truncated"]
    assert sum(Decimal(row["actual_usd"]) for row in rows if not row["canary"] and row["closed"]) == Decimal(
        run_json(tmp_path, "report")["total"]["cost_usd"]
    )


def test_parquet_has_types(ledger, tmp_path):
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
def test_pages_of_any_size_give_the_same_file(name, ledger, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", exc_type=ImportError)
    sizes = []
    for page_rows in (2, 1_000):
        monkeypatch.setattr("llmstack.ledger.export.PAGE_ROWS", page_rows)
        WRITERS[name](pages(ledger.connection, Period(), with_canary=False), io.BytesIO(), sizes.append)
    assert sizes == [2, 2, 2, 2, 8]


def test_an_export_that_fails_leaves_no_file(ledger, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(WRITERS, "csv", fail)
    run(tmp_path, "export", "--output", str(tmp_path / "rows.csv"), exit_code=2)
    assert not list(tmp_path.glob("*rows.csv*"))


def test_books_that_agree_are_verified(ledger, tmp_path):
    result = run_json(tmp_path, "verify")
    assert result["findings"] == []
    assert result["num_rows"] == 9
    assert "agree" in run(tmp_path, "verify").stdout


TAMPERED = {
    "a cost": "UPDATE request SET actual_nano_usd = actual_nano_usd + 1 WHERE state = 'settled' AND canary = 0",
    "a row": "DELETE FROM request WHERE id = 1",
    "a state": "UPDATE request SET state = 'refused', code = 'internal', actual_nano_usd = 0 WHERE id = 1",
    "tokens": "UPDATE request SET num_completion_tokens = 0 WHERE id = 1",
    "a flag": "UPDATE request SET flags = '' WHERE id = 1",
    "a code": "UPDATE request SET code = 'internal' WHERE code = 'unknown_task'",
    "a total": "UPDATE metric_total SET value = value + 1 WHERE name = 'llm_tokens_in_total'",
    "an event": "DELETE FROM event WHERE sequence = 1",
    "a delivery": "DELETE FROM delivery WHERE event_sequence = 1",
    "a window": "UPDATE alert_window SET num_breaches = num_breaches + 1",
    "an open row": "UPDATE request SET admitted_ns = admitted_ns - 700000000000 WHERE state = 'admitted'",
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_whatever_was_tampered_with_is_found(change, ledger, tmp_path):
    assert ledger.connection.execute(change).rowcount
    result = run_json(tmp_path, "verify", exit_code=1)
    assert result["findings"]
    assert "next:" in run(tmp_path, "verify", exit_code=1).stdout


def test_an_event_that_is_gone_with_its_delivery_is_found(ledger, tmp_path):
    ledger.connection.execute("DELETE FROM delivery WHERE event_sequence = 1")
    ledger.connection.execute("DELETE FROM event WHERE sequence = 1")
    assert "events that are gone" in [
        finding["check"] for finding in run_json(tmp_path, "verify", exit_code=1)["findings"]
    ]


def deliver_all(ledger):
    ledger.connection.execute("UPDATE delivery SET state = 'delivered', delivered_ns = 1")


def test_breaches_are_compared_with_alerts_that_are_long_deleted(ledger, tmp_path):
    deliver_all(ledger)
    assert prune_step(ledger.connection, 2) > 1
    assert ledger.connection.execute("SELECT count(*) FROM event").fetchone() == (0,)
    assert run_json(tmp_path, "verify")["not_compared"] == []
    ledger.connection.execute("UPDATE pruned_total SET value = value + 1 WHERE endpoint = 'finance'")
    (finding,) = run_json(tmp_path, "verify", exit_code=1)["findings"]
    assert finding["check"] == "breaches of cost told to finance or waiting to be"


def test_what_can_not_be_compared_is_told(ledger, tmp_path):
    """Version 1 deleted events without a count of what they told."""
    execute = ledger.connection.execute
    for statement in (
        "DELETE FROM delivery",
        "DELETE FROM event",
        "DROP TABLE pruned_total",
        "PRAGMA user_version = 1",
    ):
        execute(statement)
    (before,) = run_json(tmp_path, "verify")["not_compared"]
    open_ledger(tmp_path).connection.close()
    result = run_json(tmp_path, "verify")
    assert (result["findings"], result["not_compared"]) == ([], [before])
    assert "not compared: breaches" in run(tmp_path, "verify").stdout.replace("\n", " ")


def test_a_damaged_file_is_no_ledger(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 1_000)
    assert "next:" in run(tmp_path, "verify", exit_code=2).stderr


def test_a_directory_without_a_ledger_says_what_to_do(tmp_path):
    assert "--state-dir" in run(tmp_path, "report", exit_code=2).stderr
    assert not list(tmp_path.iterdir())


def test_a_ledger_is_read_after_its_server_stopped(tmp_path):
    ledger = open_ledger(tmp_path)
    ledger.settle([settlement(admit(ledger))])
    ledger.connection.close()
    assert not list(tmp_path.glob("*-wal"))
    assert run_json(tmp_path, "verify", "--max-open-s", "0")["num_rows"] == 1


def test_readers_hold_up_no_writer(ledger, tmp_path):
    paged = pages(ledger.connection, Period(), with_canary=True)
    next(paged)
    began = time.monotonic()
    admit(open_ledger(tmp_path))
    assert time.monotonic() - began < 1.0


def bench(tmp_path, *arguments):
    options = ["--writes", "100", "--rows", "2000", "--directory", str(tmp_path)]
    done = CliRunner().invoke(app, ["ledger", "bench", *options, *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_writing_costs_is_measured_with_one_and_two_writers(tmp_path):
    measured = json.loads(bench(tmp_path, "--json"))
    costs = measured["costs"]
    assert [(cost["num_writers"], cost["call"]) for cost in costs[::3]] == [(1, "enter"), (2, "enter")]
    assert all(0 < cost["median_us"] <= cost["p99_us"] for cost in costs)
    assert (measured["directory"], measured["num_rows"]) == (str(tmp_path), 2_000)
    assert not list(tmp_path.iterdir())


def test_a_measurement_says_where_and_on_how_many_rows(tmp_path):
    assert f"in {tmp_path}, on a ledger of 2,000 rows:" in bench(tmp_path)


@pytest.mark.parametrize("num_rows", [0, 1, 2_000])
def test_a_ledger_is_filled_with_as_many_rows_as_were_asked_for(tmp_path, num_rows):
    fill(tmp_path, num_rows)
    with closing(open_to_read(tmp_path / "ledger.db")) as connection:
        assert connection.execute("SELECT count(*), count(closed_ns) FROM request").fetchone() == (num_rows, num_rows)


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [(0, "0.000000000"), (1, "0.000000001"), (-1, "-0.000000001"), (10**18 + 62_000, "1000000000.000062000")],
)
def test_money_is_text_without_rounding(nano_usd, text):
    assert dollar_text(nano_usd) == text
