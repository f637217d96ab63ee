"""What the parent process reads from the ledger and writes into it."""

import sqlite3
import time
from pathlib import Path

import pytest

from llm_policy.ledger.database import VERSION, open_database
from llm_policy.ledger.engine_queue import MAX_OPEN_S
from llm_policy.ledger.ledger import Ledger
from llm_policy.ledger.rejection_count import SAMPLE_ROWS
from llmstack.ledger.verification import verify
from llmstack.server.error import ServerStartError
from llmstack.supervision.ledger_maintenance import CANARY_KEPT_S, WINDOW_S, LedgerMaintenance, LedgerMoved
from tests.ledgers import NEW_ROW, admit, events, open_ledger, rows, settlement, sheds, states
from tests.manifests import manifest
from tests.tenants import add_tenant

NOW_NS = 1_800_000_000_000_000_000
S = 1_000_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


@pytest.fixture
def maintenance(tmp_path: Path) -> LedgerMaintenance:
    return LedgerMaintenance(tmp_path, manifest())


def answer(ledger: Ledger, now_ns: int, entry=NEW_ROW, **changes) -> None:
    ledger.settle([settlement(admit(ledger, entry, now_ns - S), entry, **changes)], now_ns)


def test_an_empty_window_has_no_queue_delay_and_no_breaches(maintenance, ledger):
    statistics = maintenance.window(NOW_NS)
    assert statistics.queue_delay_p95_us is None
    assert statistics.num_breaches == {"queue_delay": 0, "cost": 0, "schema_violation": 0, "engine_unhealthy": 0}


def test_the_queue_delay_is_the_95th_percentile(maintenance, ledger):
    for delay_us in range(1, 101):
        answer(ledger, NOW_NS, queue_delay_us=delay_us)
    assert maintenance.window(NOW_NS).queue_delay_p95_us == 95


def test_one_answer_is_its_own_percentile(maintenance, ledger):
    answer(ledger, NOW_NS, queue_delay_us=7)
    assert maintenance.window(NOW_NS).queue_delay_p95_us == 7


def test_breaches_are_counted_by_rule(maintenance, ledger):
    answer(ledger, NOW_NS, flags=["queue_delay_breach", "cost_breach", "truncated"])
    answer(ledger, NOW_NS, flags=["cost_breach"])
    assert maintenance.window(NOW_NS).num_breaches == {
        "queue_delay": 1,
        "cost": 2,
        "schema_violation": 0,
        "engine_unhealthy": 0,
    }


def test_the_canary_is_left_out(maintenance, ledger):
    answer(ledger, NOW_NS, NEW_ROW._replace(is_canary=True), flags=["queue_delay_breach"])
    assert maintenance.window(NOW_NS) == (
        None,
        {"queue_delay": 0, "cost": 0, "schema_violation": 0, "engine_unhealthy": 0},
    )


def test_the_window_slides(maintenance, ledger):
    answer(ledger, NOW_NS, flags=["cost_breach"], queue_delay_us=1)
    answer(ledger, NOW_NS + 30 * S, queue_delay_us=2)
    assert maintenance.window(NOW_NS + 30 * S).num_breaches["cost"] == 1
    later = maintenance.window(NOW_NS + (WINDOW_S + 1) * S)
    assert (later.queue_delay_p95_us, later.num_breaches["cost"]) == (2, 0)
    assert maintenance.window(NOW_NS + 1_000 * S).queue_delay_p95_us is None


def test_an_answer_counts_at_its_end_however_long_it_took(maintenance, ledger):
    ledger_id = admit(ledger, now_ns=NOW_NS)
    for second in (1, 2):
        answer(ledger, NOW_NS + second * S, queue_delay_us=1)
    assert maintenance.window(NOW_NS + 500 * S).queue_delay_p95_us is None
    ledger.settle([settlement(ledger_id, queue_delay_us=9)], NOW_NS + 500 * S)
    assert maintenance.window(NOW_NS + 500 * S).queue_delay_p95_us == 9
    assert LedgerMaintenance(maintenance._path.parent, manifest()).window(NOW_NS + 500 * S).queue_delay_p95_us == 9


def test_open_rows_of_an_ended_server_are_lost_and_those_of_the_live_one_stay_open(maintenance, tmp_path):
    for boot_id in ("old", "live"):
        admit(open_ledger(tmp_path, boot_id), now_ns=NOW_NS)
    maintenance.close_unanswered(NOW_NS + S, "live")
    assert {row["boot_id"]: row["state"] for row in rows(open_ledger(tmp_path))} == {"old": "lost", "live": "admitted"}


def test_without_a_server_every_open_row_is_lost(maintenance, ledger):
    admit(ledger, now_ns=NOW_NS)
    maintenance.close_unanswered(NOW_NS + S, "")
    assert states(ledger) == {"lost": 1}


def test_a_row_that_is_open_for_too_long_is_cancelled(maintenance, ledger):
    admit(ledger, now_ns=NOW_NS)
    maintenance.close_unanswered(NOW_NS + (MAX_OPEN_S + 1) * S, "boot-1")
    assert states(ledger) == {"cancelled": 1}


def test_dead_requests_free_their_places_in_the_queue(maintenance, tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=2)
    now_ns = time.time_ns()
    for _ in range(2):
        admit(ledger, now_ns=now_ns)
    assert sheds(ledger, now_ns=now_ns) == [True]
    maintenance.record_dead_requests("boot-1", 1)
    assert sheds(ledger, now_ns=now_ns) == [False]


def test_an_outage_raises_an_alert_immediately_with_its_reason(maintenance, ledger):
    maintenance.record_engine_unhealthy(NOW_NS, "the process of preprocess_0_0 died")
    (event,) = events(ledger)
    assert (event["rule"], event["count"], event["phase"]) == ("engine_unhealthy", 1, "first")
    assert event["samples"] == ["the process of preprocess_0_0 died"]


def test_a_window_that_ended_gets_its_summary(maintenance, ledger):
    for reason in ("one", "two", "three"):
        maintenance.record_engine_unhealthy(NOW_NS, reason)
    maintenance.close_due_windows(NOW_NS + 59 * S)
    assert len(events(ledger)) == 1
    maintenance.close_due_windows(NOW_NS + 60 * S)
    assert [(event["count"], event["samples"]) for event in events(ledger)] == [(1, ["one"]), (2, ["two", "three"])]


def test_an_outage_that_can_not_be_written_is_written_later(tmp_path):
    missing = tmp_path / "missing"
    maintenance = LedgerMaintenance(missing, manifest())
    for reason in ("one", "two"):
        with pytest.raises(sqlite3.Error):
            maintenance.record_engine_unhealthy(NOW_NS, reason)
    with pytest.raises(sqlite3.Error):
        maintenance.close_due_windows(NOW_NS)
    missing.mkdir()
    for second in (1, 61, 62):
        maintenance.close_due_windows(NOW_NS + second * S)
    assert [event["samples"] for event in events(open_ledger(missing))] == [["one"], ["two"]]


def test_a_fault_ends_with_its_cause(tmp_path, maintenance, ledger):
    answer(ledger, NOW_NS, queue_delay_us=7)
    assert maintenance.window(NOW_NS).queue_delay_p95_us == 7
    ledger.connection.close()
    moved = tmp_path / "moved"
    (tmp_path / "ledger.db").rename(moved)
    (tmp_path / "ledger.db").mkdir()
    maintenance.close()
    with pytest.raises(sqlite3.Error):
        maintenance.window(NOW_NS)
    (tmp_path / "ledger.db").rmdir()
    moved.rename(tmp_path / "ledger.db")
    assert maintenance.window(NOW_NS).queue_delay_p95_us == 7


def test_seconds_that_no_rate_counts_any_more_are_deleted(maintenance, ledger):
    add_tenant(ledger.connection, "acme")
    ledger.record([[NEW_ROW._replace(is_authenticated=True)]], NOW_NS)
    num_seconds = "SELECT count(*) FROM tenant_second"
    maintenance.keep_budget(NOW_NS + 60 * S, 0)
    assert ledger.connection.execute(num_seconds).fetchone() == (1,)
    maintenance.keep_budget(NOW_NS + 121 * S, 0)
    assert ledger.connection.execute(num_seconds).fetchone() == (0,)


def test_counts_of_old_minutes_are_rolled_up_and_the_size_is_measured(maintenance, ledger):
    for minute in range(2):
        ledger.record([[NEW_ROW._replace(code="missing_header")] * 9], NOW_NS + minute * 60 * S)
    size = maintenance.keep_budget(NOW_NS + 8 * 86_400 * S, 1 << 30)
    assert (size.level, size.max_bytes) == ("ok", 1 << 30)
    assert size.used_bytes > 0
    assert ledger.connection.execute("SELECT minute % 1440, num_rows FROM rejection_count").fetchall() == [
        (0, 2 * (9 - SAMPLE_ROWS))
    ]


def test_a_checkpoint_writes_the_log_into_the_file(tmp_path, maintenance, ledger):
    for _ in range(50):
        answer(ledger, NOW_NS)
    before = (tmp_path / "ledger.db").stat().st_size
    maintenance.checkpoint()
    assert (tmp_path / "ledger.db").stat().st_size > before


def test_outages_of_the_last_window_are_counted_among_the_breaches(maintenance, ledger):
    for second in (0, 50):
        maintenance.record_engine_unhealthy(NOW_NS + second * S, "gone")
    assert maintenance.window(NOW_NS + 50 * S).num_breaches["engine_unhealthy"] == 2
    assert maintenance.window(NOW_NS + 70 * S).num_breaches["engine_unhealthy"] == 1
    assert maintenance.window(NOW_NS + 111 * S).num_breaches["engine_unhealthy"] == 0


def test_only_canary_rows_are_deleted_after_a_day(maintenance, ledger):
    canary = NEW_ROW._replace(is_canary=True)
    old_ns = NOW_NS - (CANARY_KEPT_S + 1) * S
    for _ in range(150):
        answer(ledger, old_ns, canary)
    answer(ledger, old_ns)
    admit(ledger, canary, old_ns)
    answer(ledger, NOW_NS, canary)
    for _ in range(3):
        maintenance.delete_old_canaries(NOW_NS)
    left = [(row["canary"], row["state"], row["admitted_ns"] < NOW_NS - CANARY_KEPT_S * S) for row in rows(ledger)]
    assert left == [(0, "settled", True), (1, "admitted", True), (1, "settled", False)]
    assert verify(ledger.connection, old_ns, 600).discrepancies == []


def test_the_newest_row_is_kept_so_that_no_id_is_reused(maintenance, ledger):
    canary = NEW_ROW._replace(is_canary=True)
    answer(ledger, 1_000 * S, canary)
    newest = rows(ledger)[-1]["id"]
    maintenance.delete_old_canaries(NOW_NS)
    assert admit(ledger, NEW_ROW) > newest


def move_away(path: Path) -> None:
    path.rename(path.with_name("moved"))


def replace(path: Path) -> None:
    move_away(path)
    open_database(path).close()


@pytest.mark.parametrize("change", [move_away, replace, Path.unlink])
def test_a_moved_ledger_is_reported_and_not_recreated(tmp_path, maintenance, ledger, change):
    path = tmp_path / "ledger.db"
    answer(ledger, NOW_NS)
    change(path)
    there = path.exists()
    for _ in range(2):
        with pytest.raises(LedgerMoved, match="put that one back, or restart llmstack serve"):
            maintenance.close_unanswered(NOW_NS, "boot-1")
        with pytest.raises(LedgerMoved):
            maintenance.record_engine_unhealthy(NOW_NS, "gone")
    assert path.exists() == there


def test_a_ledger_that_was_moved_back_is_used_again(tmp_path, maintenance, ledger):
    path = tmp_path / "ledger.db"
    answer(ledger, NOW_NS, queue_delay_us=7)
    move_away(path)
    with pytest.raises(LedgerMoved):
        maintenance.window(NOW_NS)
    path.with_name("moved").rename(path)
    assert maintenance.window(NOW_NS).queue_delay_p95_us == 7


def test_a_newer_ledger_is_an_error_at_the_start(tmp_path):
    with open_database(tmp_path / "ledger.db") as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(ServerStartError, match="written by a newer llmstack"):
        LedgerMaintenance(tmp_path, manifest())
