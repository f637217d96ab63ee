"""What the parent reads from the ledger and writes into it."""

import sqlite3
import time
from pathlib import Path

import pytest

from llm_policy.engine_queue import MAX_OPEN_S
from llm_policy.ledger import Ledger
from llmstack.supervision.books import WINDOW_S
from llmstack.supervision.ledger_books import LedgerBooks
from tests.books import ENTRY, admit, events, open_ledger, rows, settlement, states
from tests.manifests import manifest

NOW_NS = 1_800_000_000_000_000_000
S = 1_000_000_000


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return open_ledger(tmp_path)


@pytest.fixture
def books(tmp_path: Path) -> LedgerBooks:
    return LedgerBooks(tmp_path, manifest())


def answer(ledger: Ledger, now_ns: int, entry=ENTRY, **changes) -> None:
    ledger.settle([settlement(admit(ledger, entry, now_ns - S), entry, **changes)], now_ns)


def test_nothing_is_known_of_an_empty_window(books, ledger):
    figures = books.window(NOW_NS)
    assert figures.queue_delay_p95_us is None
    assert figures.num_breaches == {"queue_delay": 0, "cost": 0, "schema_violation": 0}


def test_the_queue_delay_is_the_one_that_95_percent_do_not_exceed(books, ledger):
    for delay_us in range(1, 101):
        answer(ledger, NOW_NS, queue_delay_us=delay_us)
    assert books.window(NOW_NS).queue_delay_p95_us == 95


def test_one_answer_is_its_own_percentile(books, ledger):
    answer(ledger, NOW_NS, queue_delay_us=7)
    assert books.window(NOW_NS).queue_delay_p95_us == 7


def test_breaches_are_counted_by_rule(books, ledger):
    answer(ledger, NOW_NS, flags=["queue_delay_breach", "cost_breach", "truncated"])
    answer(ledger, NOW_NS, flags=["cost_breach"])
    assert books.window(NOW_NS).num_breaches == {"queue_delay": 1, "cost": 2, "schema_violation": 0}


def test_the_canary_is_left_out(books, ledger):
    answer(ledger, NOW_NS, ENTRY._replace(is_canary=True), flags=["queue_delay_breach"])
    assert books.window(NOW_NS) == (None, {"queue_delay": 0, "cost": 0, "schema_violation": 0})


def test_the_window_moves_on(books, ledger):
    answer(ledger, NOW_NS, flags=["cost_breach"], queue_delay_us=1)
    answer(ledger, NOW_NS + 30 * S, queue_delay_us=2)
    assert books.window(NOW_NS + 30 * S).num_breaches["cost"] == 1
    later = books.window(NOW_NS + (WINDOW_S + 1) * S)
    assert (later.queue_delay_p95_us, later.num_breaches["cost"]) == (2, 0)
    assert books.window(NOW_NS + 1_000 * S).queue_delay_p95_us is None


def test_an_answer_counts_when_it_came_however_long_it_took(books, ledger):
    ledger_id = admit(ledger, now_ns=NOW_NS)
    for second in (1, 2):
        answer(ledger, NOW_NS + second * S, queue_delay_us=1)
    assert books.window(NOW_NS + 500 * S).queue_delay_p95_us is None
    ledger.settle([settlement(ledger_id, queue_delay_us=9)], NOW_NS + 500 * S)
    assert books.window(NOW_NS + 500 * S).queue_delay_p95_us == 9
    assert LedgerBooks(books._path.parent, manifest()).window(NOW_NS + 500 * S).queue_delay_p95_us == 9


def test_rows_of_a_server_that_is_over_are_lost_and_those_of_the_live_one_wait(books, tmp_path):
    for boot_id in ("old", "live"):
        admit(open_ledger(tmp_path, boot_id), now_ns=NOW_NS)
    books.close_unanswered(NOW_NS + S, "live")
    assert {row["boot_id"]: row["state"] for row in rows(open_ledger(tmp_path))} == {"old": "lost", "live": "admitted"}


def test_without_a_server_every_open_row_is_lost(books, ledger):
    admit(ledger, now_ns=NOW_NS)
    books.close_unanswered(NOW_NS + S, "")
    assert states(ledger) == {"lost": 1}


def test_a_row_that_waits_for_too_long_is_cancelled(books, ledger):
    admit(ledger, now_ns=NOW_NS)
    books.close_unanswered(NOW_NS + (MAX_OPEN_S + 1) * S, "boot-1")
    assert states(ledger) == {"cancelled": 1}


def test_requests_that_died_make_room(books, tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=2)
    now_ns = time.time_ns()
    for _ in range(2):
        admit(ledger, now_ns=now_ns)
    assert ledger.enter([[ENTRY]], now_ns) == [None]
    books.set_unanswered("boot-1", 1)
    assert ledger.enter([[ENTRY]], now_ns) != [None]


def test_an_outage_is_an_alert_at_once_and_names_its_reason(books, ledger):
    books.record_engine_unhealthy(NOW_NS, "the process of preprocess_0_0 died")
    (event,) = events(ledger)
    assert (event["rule"], event["count"], event["phase"]) == ("engine_unhealthy", 1, "first")
    assert event["samples"] == ["the process of preprocess_0_0 died"]


def test_a_window_that_ended_gets_its_summary(books, ledger):
    for reason in ("one", "two", "three"):
        books.record_engine_unhealthy(NOW_NS, reason)
    books.close_due_windows(NOW_NS + 59 * S)
    assert len(events(ledger)) == 1
    books.close_due_windows(NOW_NS + 60 * S)
    assert [(event["count"], event["samples"]) for event in events(ledger)] == [(1, ["one"]), (2, ["two", "three"])]


def test_an_outage_that_can_not_be_written_is_owed(tmp_path):
    missing = tmp_path / "missing"
    books = LedgerBooks(missing, manifest())
    for reason in ("one", "two"):
        with pytest.raises(sqlite3.Error):
            books.record_engine_unhealthy(NOW_NS, reason)
    with pytest.raises(sqlite3.Error):
        books.close_due_windows(NOW_NS)
    missing.mkdir()
    for second in (1, 61, 62):
        books.close_due_windows(NOW_NS + second * S)
    assert [event["samples"] for event in events(open_ledger(missing))] == [["one"], ["two"]]


def test_a_fault_is_over_when_its_cause_is(tmp_path, books, ledger):
    answer(ledger, NOW_NS, queue_delay_us=7)
    assert books.window(NOW_NS).queue_delay_p95_us == 7
    ledger.connection.close()
    aside = tmp_path / "aside"
    (tmp_path / "ledger.db").rename(aside)
    (tmp_path / "ledger.db").mkdir()
    books.close()
    with pytest.raises(sqlite3.Error):
        books.window(NOW_NS)
    (tmp_path / "ledger.db").rmdir()
    aside.rename(tmp_path / "ledger.db")
    assert books.window(NOW_NS).queue_delay_p95_us == 7


def test_the_log_is_written_back_into_the_file(tmp_path, books, ledger):
    for _ in range(50):
        answer(ledger, NOW_NS)
    before = (tmp_path / "ledger.db").stat().st_size
    books.checkpoint()
    assert (tmp_path / "ledger.db").stat().st_size > before
