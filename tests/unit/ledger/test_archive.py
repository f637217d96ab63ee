"""`llmstack ledger archive`, and the commands that read archived rows."""

import csv
import io
import os
import shutil
import signal
import sys
import time
from collections import Counter
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from llm_policy.ledger import metric_total
from llm_policy.ledger.archive_file import read_files
from llm_policy.ledger.budget_window import day_of
from llm_policy.ledger.database import FILE_NAME, open_database, open_read_only
from llm_policy.ledger.size_budget import keep_budget
from llmstack.ledger.archive import Archiver, archive_lock, find_months, unfinished_files
from llmstack.ledger.archive_reader import ArchiveError, ArchiveReader
from llmstack.ledger.period import Period
from llmstack.ledger.report import make_report
from llmstack.ledger.row_stream import read_all_pages
from llmstack.ledger.verification import verify
from tests.ledgers import NEW_ROW, admit, full_disk, open_ledger, rows, settlement
from tests.unit.ledger.ledger_command import DAY_NS, NOON_NS, run, run_json

pq = pytest.importorskip("pyarrow.parquet", exc_type=ImportError)

BEFORE = "2024-11-02"
MONTH_NS = 30 * DAY_NS  # from 2024-10-04 to 2024-11-03
ALL_GROUPS = [option for name in ("day", "tenant", "task", "engine", "schema", "code") for option in ("--by", name)]


@pytest.fixture
def two_months(flooded):
    """The rows of October 4th and 5th, others of October 31st and November 1st, and two of November 3rd."""
    for now_ns in (NOON_NS + 27 * DAY_NS, NOON_NS + 28 * DAY_NS):
        flooded.settle([settlement(admit(flooded, NEW_ROW, now_ns), flags=["schema_violation"])], now_ns + 1_234)
        admit(flooded, NEW_ROW._replace(schema_id="sha256:" + "c" * 64), now_ns)
        flooded.close_unanswered(now_ns + DAY_NS // 2)
    for _ in range(2):
        flooded.settle([settlement(admit(flooded, NEW_ROW, NOON_NS + MONTH_NS))], NOON_NS + MONTH_NS + 1)
    return flooded


def archive(tmp_path, *arguments, before=BEFORE):
    return run_json(tmp_path, "archive", "--before", before, *arguments)


def exported(tmp_path, *arguments):
    return list(csv.DictReader(io.StringIO(run(tmp_path, "export", *arguments).stdout)))


def in_microseconds(found):
    """Rows of an export with the precision that an archive has."""
    return [{**row, **{name: row[name][:-4] for name in ("admitted", "closed")}} for row in found]


def test_rows_of_each_month_move_into_a_file_and_every_command_reads_both(two_months, tmp_path):
    report, found = run_json(tmp_path, "report", *ALL_GROUPS, "--canary"), exported(tmp_path, "--canary")
    done = archive(tmp_path)
    assert [(month["month"], month["num_rows"]) for month in done["months"]] == [("2024-10", 13), ("2024-11", 2)]
    assert sorted(path.parent.name for path in (tmp_path / "archive").rglob("*")) == [
        *("archive", "archive", "month=2024-10", "month=2024-11")
    ]
    assert len(rows(two_months)) == len(found) - 15
    assert run_json(tmp_path, "report", *ALL_GROUPS, "--canary") == report
    assert in_microseconds(exported(tmp_path, "--canary")) == in_microseconds(found)
    verified = run_json(tmp_path, "verify")
    assert (verified["findings"], verified["not_compared"], verified["num_archived"]) == ([], [], 15)
    assert "15 archived" in " ".join(run(tmp_path, "verify").stdout.split())


def test_a_file_has_the_columns_of_an_export(two_months, tmp_path):
    run(tmp_path, "export", "--format", "parquet", "--output", str(tmp_path / "before.parquet"))
    (october, _) = archive(tmp_path)["months"]
    expected = pq.read_table(tmp_path / "before.parquet")
    found = pq.read_table(tmp_path / "archive" / october["file"], partitioning=None)
    assert found.schema == expected.schema
    ids = found["id"].to_pylist()
    assert found.to_pylist() == [row for row in expected.to_pylist() if row["id"] in ids]


def test_periods_are_those_of_rows_that_are_not_archived(two_months, tmp_path):
    periods = [("2024-10-05", "2024-10-05"), ("2024-10-31", "2024-11-01"), ("2024-11-02", "2024-11-30")]
    options = [("--since", since, "--until", until) for since, until in periods]
    before = [(run_json(tmp_path, "report", *each), in_microseconds(exported(tmp_path, *each))) for each in options]
    archive(tmp_path)
    assert before == [
        (run_json(tmp_path, "report", *each), in_microseconds(exported(tmp_path, *each))) for each in options
    ]


def test_open_rows_canaries_the_newest_row_and_later_ones_stay(ledger, tmp_path):
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    admit(ledger, NEW_ROW, NOON_NS)
    ledger.settle([settlement(admit(ledger, NEW_ROW, NOON_NS))], NOON_NS)
    newest = rows(ledger)[-1]
    archive(tmp_path, before=f"{yesterday:%Y-%m-%d}")
    assert Counter((row["state"], row["canary"]) for row in rows(ledger)) == {
        ("settled", 1): 1,
        ("admitted", 0): 2,
        ("settled", 0): 1,
    }
    assert rows(ledger)[-1] == newest
    assert admit(ledger) == newest["id"] + 1


def test_no_archive_leaves_archived_rows_out(two_months, tmp_path):
    archive(tmp_path)
    number = sum(not row["canary"] for row in rows(two_months))
    report = run_json(tmp_path, "report", "--no-archive")["total"]
    assert report["num_rows"] - report["only_counted"] == number == len(exported(tmp_path, "--no-archive"))
    verified = run_json(tmp_path, "verify", "--no-archive")
    assert (verified["findings"], verified["num_archived"]) == ([], 15)
    assert verified["not_compared"] == ["archived rows with their files: they were not read"]


def test_a_dry_run_shows_what_would_be_archived_and_changes_nothing(two_months, tmp_path):
    expected = archive(tmp_path, "--dry-run")
    assert expected["is_dry_run"]
    assert not (tmp_path / "archive").exists()
    assert "2024-10" in run(tmp_path, "archive", "--before", BEFORE, "--dry-run").stdout
    done = archive(tmp_path)
    without_file = [{**month, "file": ""} for month in done["months"]]
    assert without_file == expected["months"]


def test_a_second_run_archives_nothing_again(two_months, tmp_path):
    archive(tmp_path)
    report = run_json(tmp_path, "report")
    assert archive(tmp_path)["months"] == []
    assert run_json(tmp_path, "report") == report


def test_a_month_gets_one_file_for_each_run(two_months, tmp_path):
    report = run_json(tmp_path, "report")
    assert [month["num_rows"] for month in archive(tmp_path, before="2024-10-05")["months"]] == [7]
    assert [month["num_rows"] for month in archive(tmp_path)["months"]] == [6, 2]
    assert len(list((tmp_path / "archive" / "month=2024-10").iterdir())) == 2
    assert run_json(tmp_path, "report") == report
    assert run_json(tmp_path, "verify")["findings"] == []


@pytest.mark.parametrize("days", [0, -1])
def test_a_day_whose_rows_may_still_be_settled_is_rejected(days, ledger, tmp_path):
    day = datetime.now(timezone.utc) - timedelta(days=days)
    done = run(tmp_path, "archive", "--before", f"{day:%Y-%m-%d}", exit_code=2)
    assert "may still be settled" in done.stderr
    assert "give --before" in done.stderr
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    run(tmp_path, "archive", "--before", f"{yesterday:%Y-%m-%d}", "--dry-run")


def test_two_runs_at_once_are_rejected(ledger, tmp_path):
    with archive_lock(tmp_path):
        assert "another" in run(tmp_path, "archive", "--before", BEFORE, exit_code=2).stderr
    archive(tmp_path)


def test_another_directory_is_found_where_it_was_written_and_after_it_was_moved(two_months, tmp_path):
    report = run_json(tmp_path, "report")
    archive(tmp_path, "--directory", str(tmp_path / "elsewhere"))
    assert run_json(tmp_path, "report") == report
    (tmp_path / "elsewhere").rename(tmp_path / "moved")
    assert "give --archive the directory" in run(tmp_path, "report", exit_code=2).stderr
    assert run_json(tmp_path, "report", "--archive", str(tmp_path / "moved")) == report
    findings = run_json(tmp_path, "verify", exit_code=1)["findings"]
    assert [finding["in_totals"] for finding in findings] == ["readable"] * 2
    assert run_json(tmp_path, "verify", "--archive", str(tmp_path / "moved"))["findings"] == []


def test_without_pyarrow_each_command_says_what_to_install(two_months, tmp_path, monkeypatch):
    archive(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for command in (["report"], ["export"], ["archive", "--before", "2024-11-10"]):
        done = run(tmp_path, *command, exit_code=2)
        assert "pip install pyarrow" in done.stderr
    verified = run_json(tmp_path, "verify")
    assert verified["findings"] == []
    assert "pip install pyarrow" in verified["not_compared"][0]
    run(tmp_path, "report", "--no-archive")
    run(tmp_path, "report", "--since", "2024-11-02")
    run(tmp_path, "archive", "--before", "2024-11-10", "--dry-run")
    assert len(unfinished_files(two_months.connection)) == 0


def test_a_full_disk_removes_no_row_and_leaves_no_file(two_months, tmp_path):
    for _ in range(40):  # more than the disk has room for
        two_months.settle([settlement(admit(two_months, NEW_ROW._replace(request_id=os.urandom(60).hex()), NOON_NS))])
    admit(two_months)
    before = rows(two_months)
    two_months.connection.close()
    with full_disk():
        assert "next:" in run(tmp_path, "archive", "--before", BEFORE, exit_code=2).stderr
    ledger = open_ledger(tmp_path)
    assert rows(ledger) == before
    assert [path for path in (tmp_path / "archive").rglob("*") if path.is_file()] == []
    archive(tmp_path)
    assert run_json(tmp_path, "verify")["findings"] == []


@pytest.mark.parametrize("until", ["2024-10-04", None])
def test_a_file_that_does_not_hold_what_was_written_is_not_used(until, two_months, tmp_path):
    other = tmp_path / "other"
    if until is None:
        other.write_bytes(b"PAR1 no Parquet")
    else:
        run(tmp_path, "export", "--format", "parquet", "--output", str(other), "--until", until)

    def damage(what, done, total):
        if what.startswith("writing"):
            other.replace(next((tmp_path / "archive").rglob("*.part")))

    before = rows(two_months)
    archiver = Archiver(two_months.connection, tmp_path / "archive", damage)
    with pytest.raises(ArchiveError):
        archiver.archive(find_months(two_months.connection, day_of(NOON_NS + MONTH_NS))[0])
    assert rows(two_months) == before
    assert read_files(two_months.connection) == []
    assert [path for path in (tmp_path / "archive").rglob("*") if path.is_file()] == []


DAMAGED = {
    "a sum": "UPDATE archived_sum SET value = value + 1 WHERE name = 'llm_tokens_in_total'",
    "a cost": "UPDATE archived_sum SET value = value + 1 WHERE name = 'llm_cost_usd_total'",
    "a file's end": "UPDATE archive_file SET counted_through = counted_through - 1",
    "a forgotten file": "DELETE FROM archive_file WHERE name LIKE 'month=2024-10%'",
    "an exclusion": "INSERT INTO archive_exclusion SELECT name, counted_through FROM archive_file",
    "usage of an archived day": "UPDATE usage_day SET num_completion_tokens = num_completion_tokens + 1",
}


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
def test_any_tampering_with_what_is_known_of_the_archive_is_found(change, two_months, tmp_path):
    archive(tmp_path)
    assert two_months.connection.execute(change).rowcount
    assert run_json(tmp_path, "verify", exit_code=1)["findings"]


def test_a_damaged_file_is_found(two_months, tmp_path):
    (month, _) = archive(tmp_path)["months"]
    path = tmp_path / "archive" / month["file"]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    (finding,) = run_json(tmp_path, "verify", exit_code=1)["findings"]
    assert month["file"] in finding["check"]
    assert "restore the file from a backup" in run(tmp_path, "export", exit_code=2).stderr


def test_rows_that_change_before_they_are_removed_are_not_counted_in_the_file(two_months, tmp_path):
    """A late answer settles a row, and the size budget makes rejected ones counts."""
    (lost,) = [row for row in rows(two_months) if row["state"] == "cancelled" and row["admitted_ns"] == NOON_NS]
    pruned = [
        row["id"] for row in rows(two_months) if row["state"] == "refused" and row["admitted_ns"] < NOON_NS + MONTH_NS
    ]

    def change(what, done, total):
        if what == "reading back" and pruned and unfinished_files(two_months.connection):
            two_months.settle([settlement(lost["id"])])
            keep_budget(two_months.connection, 1, time.time_ns())

    october = find_months(two_months.connection, day_of(NOON_NS + MONTH_NS))[0]
    file = Archiver(two_months.connection, tmp_path / "archive", change).archive(october)
    assert (file.state, file.excluded) == ("complete", frozenset())
    ids = pq.read_table(tmp_path / "archive" / file.name, partitioning=None)["id"].to_pylist()
    assert len(ids) == file.num_rows == october.num_rows - len(pruned) - 1
    assert not {lost["id"], *pruned} & set(ids)
    assert lost["id"] in {row["id"] for row in rows(two_months)}
    assert run_json(tmp_path, "verify")["findings"] == []
    assert [month["num_rows"] for month in archive(tmp_path)["months"]] == [1, 2]
    assert run_json(tmp_path, "verify")["findings"] == []


@pytest.mark.parametrize("num_pages", range(8))
def test_an_export_has_each_row_once_while_rows_are_archived(num_pages, two_months, tmp_path, monkeypatch):
    monkeypatch.setattr("llmstack.ledger.export.PAGE_ROWS", 3)
    expected = [row["id"] for row in rows(two_months)]
    pages = read_all_pages(two_months.connection, ArchiveReader(tmp_path / "archive"), Period(), with_canary=True)
    found = [row["id"] for _ in range(num_pages) for row in next(pages, [])]
    archive(tmp_path)
    found += [row["id"] for page in pages for row in page]
    assert found == expected


# Calls after which a process may die: everything that changes the ledger or a file.
STEPS = frozenset(("execute", "executemany", "mkdir", "open", "fsync", "rename", "unlink", "close"))


def archive_until(state_dir: Path, step: int) -> bool:
    """Archive in a forked process that dies before or after one of its calls. Returns whether it ended before."""
    pid = os.fork()
    if pid == 0:
        try:
            archive_and_die(state_dir, step)
        finally:
            os._exit(9)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0


def archive_and_die(state_dir: Path, step: int) -> None:
    ledger = open_ledger(state_dir)
    connection = ledger.connection
    (changed,) = connection.execute("SELECT id FROM request WHERE state = 'cancelled' LIMIT 1").fetchone() or (0,)
    num_calls = 0

    def count(frame, event, argument):
        nonlocal num_calls
        if event in ("c_call", "c_return") and argument.__name__ in STEPS:
            num_calls += 1
            if num_calls == step:
                os.kill(os.getpid(), signal.SIGKILL)

    def change(what, done, total):
        sys.setprofile(None)
        if what == "reading back":
            with closing(open_ledger(state_dir).connection) as other:
                other.execute("UPDATE request SET request_id = 'changed' WHERE id = ?", (changed,))
        sys.setprofile(count)

    sys.setprofile(count)
    with archive_lock(state_dir):
        archiver = Archiver(connection, state_dir / "archive", change)
        for file in unfinished_files(connection):
            archiver.finish(file)
        for month in find_months(connection, day_of(NOON_NS + MONTH_NS)):
            archiver.archive(month)
    sys.setprofile(None)
    os._exit(0)


def check_state(state_dir: Path, expected_total) -> None:
    """Each row is counted once."""
    reader = ArchiveReader(state_dir / "archive")
    with closing(open_read_only(state_dir / FILE_NAME)) as connection:
        report = make_report(connection, ["day"], Period(), with_canary=True, archive=reader)
        assert report.total == expected_total
        ids = [row["id"] for page in read_all_pages(connection, reader, Period(), with_canary=True) for row in page]
        assert len(ids) == len(set(ids)) == expected_total.num_rows - expected_total.only_counted
        assert verify(connection, time.time_ns(), 1e9, reader).discrepancies == []


def check_kills(state_dir: Path, steps, monkeypatch) -> int:
    """Returns the number of kills."""
    monkeypatch.setattr("llmstack.ledger.archive.REMOVE_BATCH_ROWS", 4)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with closing(open_read_only(state_dir / FILE_NAME)) as connection:
        total = make_report(connection, ["day"], Period(), with_canary=True).total
    for num_kills, step in enumerate(steps):
        copy = state_dir.with_name(f"{state_dir.name}-{step}")
        shutil.copytree(state_dir, copy)
        has_ended = archive_until(copy, step)
        check_state(copy, total)
        archive_until(copy, 1 + step * 7 % 60)
        check_state(copy, total)
        run(copy, "archive", "--before", BEFORE)
        check_state(copy, total)
        with closing(open_database(copy / FILE_NAME)) as connection:
            assert {file.state for file in read_files(connection)} <= {"complete"}
            known = {file.name for file in read_files(connection)}
        files = {str(path.relative_to(copy / "archive")) for path in (copy / "archive").rglob("*") if path.is_file()}
        assert files == known
        shutil.rmtree(copy)
        if has_ended:
            return num_kills
    raise AssertionError("no run came to its end")


@pytest.mark.slow
def test_a_run_that_is_killed_loses_no_row_and_counts_none_twice(two_months, tmp_path, monkeypatch):
    two_months.connection.close()
    assert check_kills(tmp_path, range(1, 10_000, 23), monkeypatch) >= 5


@pytest.mark.slow
def test_a_run_that_is_killed_at_any_step_loses_no_row_and_counts_none_twice(two_months, tmp_path, monkeypatch):
    two_months.connection.close()
    assert check_kills(tmp_path, range(1, 10_000), monkeypatch) >= 100


def test_totals_are_those_of_before(two_months, tmp_path):
    before = metric_total.read_totals(two_months.connection)
    usage = two_months.connection.execute("SELECT * FROM usage_day").fetchall()
    archive(tmp_path)
    assert metric_total.read_totals(two_months.connection) == before
    assert two_months.connection.execute("SELECT * FROM usage_day").fetchall() == usage
