"""`llmstack ledger report`."""

from datetime import datetime, timezone

from tests.ledgers import open_ledger
from tests.unit.ledger.ledger_command import run, run_json


def test_a_report_sums_rows_by_day(ledger, tmp_path):
    report = run_json(tmp_path, "report")
    days = {group["day"]: group for group in report["groups"]}
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    assert list(days) == ["2024-10-04", "2024-10-05", today]
    first = days["2024-10-04"]
    assert (first["settled"], first["refused"], first["cancelled"], first["open"]) == (2, 2, 1, 0)
    assert first["cost_usd"] == "0.000174000"  # two answers and a prompt
    assert first["num_prompt_tokens"] == 1_500
    assert report["total"]["cost_nano_usd"] == sum(day["cost_nano_usd"] for day in days.values())


def test_each_by_adds_a_subgroup(ledger, tmp_path):
    report = run_json(tmp_path, "report", "--by", "tenant", "--by", "task")
    assert [(group["tenant"], group["task"], group["num_rows"]) for group in report["groups"]] == [
        ("acme", "judge", 5),
        ("globex", "", 3),
    ]


def test_a_report_excludes_the_canary_by_default(ledger, tmp_path):
    assert run_json(tmp_path, "report", "--canary")["total"]["num_rows"] == 9
    assert run_json(tmp_path, "report")["total"]["num_rows"] == 8


def test_rows_that_are_only_counted_are_refused_rows_without_tenant_and_schema(flooded, tmp_path):
    by_sender = run_json(tmp_path, "report", "--by", "tenant", "--by", "schema")["groups"][0]
    assert (by_sender["tenant"], by_sender["schema"]) == ("", "")
    assert (by_sender["num_rows"], by_sender["refused"], by_sender["only_counted"]) == (8, 8, 4)
    by_engine = run_json(tmp_path, "report", "--by", "engine")
    assert [group["only_counted"] for group in by_engine["groups"]] == [4]
    assert by_engine["total"]["num_rows"] == 16
    assert "4 rejected rows are only counted" in run(tmp_path, "report").stderr


def test_counts_are_limited_to_a_period_too(flooded, tmp_path):
    report = run_json(tmp_path, "report", "--since", "2024-10-05", "--until", "2024-10-05")
    assert (report["total"]["refused"], report["total"]["only_counted"]) == (4, 2)


def test_rejections_lists_the_counts_by_minute(flooded, tmp_path):
    found = run_json(tmp_path, "rejections", "--since", "2024-10-05")["rejections"]
    assert [(each["minute"], each["code"], each["num_rows"]) for each in found] == [
        ("2024-10-05T12:00:00Z", "missing_header", 2)
    ]
    assert "2024-10-04T12:00:00Z" in run(tmp_path, "rejections").stdout


def test_a_report_is_limited_to_a_period(ledger, tmp_path):
    report = run_json(tmp_path, "report", "--since", "2024-10-05", "--until", "2024-10-05")
    assert [group["day"] for group in report["groups"]] == ["2024-10-05"]
    assert report["total"]["num_rows"] == 2


def test_a_report_of_an_empty_ledger_is_zero(tmp_path):
    open_ledger(tmp_path)
    assert run_json(tmp_path, "report") == {"groups": [], "total": run_json(tmp_path, "report")["total"]}
    assert run_json(tmp_path, "report")["total"]["cost_usd"] == "0.000000000"


def test_the_table_shows_exact_money(ledger, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    output = run(tmp_path, "report", "--by", "engine").stdout
    assert "0.000298000" in output
    assert "sha256:aaaaaaaaaaaa" in output


def test_a_period_that_ends_before_it_begins_is_rejected(ledger, tmp_path):
    done = run(tmp_path, "report", "--since", "2024-10-05", "--until", "2024-10-04", exit_code=2)
    assert "next:" in done.stderr


def test_a_directory_without_a_ledger_is_reported_with_the_next_step(tmp_path):
    assert "--state-dir" in run(tmp_path, "report", exit_code=2).stderr
    assert not list(tmp_path.iterdir())
