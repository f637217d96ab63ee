"""The ledger's size budget."""

import json
import time
from contextlib import closing

import pytest

from llm_policy.ledger import size_budget
from llm_policy.ledger.database import checkpoint
from llm_policy.ledger.rejection_count import SAMPLE_ROWS
from llm_policy.ledger.size_budget import EVENT_TYPE, KEPT_NS, LedgerSize, keep_budget, read_size
from llmstack.ledger.verification import verify
from tests.ledgers import NEW_ROW, admit, open_ledger, rows, settlement, states

NOW_NS = time.time_ns()
OLD_NS = NOW_NS - KEPT_NS - 1
REJECTED = NEW_ROW._replace(code="invalid_input")


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path, max_queue_size=10_000)
    with closing(opened.connection):
        yield opened


def reject(ledger, number, now_ns=OLD_NS):
    ledger.record([[REJECTED]] * number, now_ns)


def answer(ledger, number, now_ns=OLD_NS):
    for _ in range(number):
        ledger.settle([settlement(admit(ledger, now_ns=now_ns))], now_ns)


def used_bytes(ledger):
    return keep_budget(ledger.connection, 0, NOW_NS).used_bytes


def size_events(ledger):
    found = ledger.connection.execute("SELECT body FROM event WHERE type = ? ORDER BY sequence", (EVENT_TYPE,))
    return [json.loads(body) for (body,) in found]


def discrepancies(ledger):
    return verify(ledger.connection, NOW_NS, max_open_s=600).discrepancies


def test_a_ledger_without_a_budget_is_ok_at_any_size(ledger):
    reject(ledger, 1_000)
    size = keep_budget(ledger.connection, 0, NOW_NS)
    assert (size.max_bytes, size.level) == (0, "ok")
    assert size.used_bytes > 200_000
    assert states(ledger) == {"refused": 1_000}


def test_nothing_is_pruned_below_the_budget(ledger):
    reject(ledger, 1_000)
    size = keep_budget(ledger.connection, 2 * used_bytes(ledger), NOW_NS)
    assert size.level == "ok"
    assert states(ledger) == {"refused": 1_000}
    assert size_events(ledger) == []


def test_near_the_budget_the_oldest_rejected_rows_become_counts_until_there_is_room(ledger):
    answer(ledger, 50)
    reject(ledger, 3_000)
    max_bytes = int(used_bytes(ledger) / 0.9)
    assert keep_budget(ledger.connection, max_bytes, NOW_NS).level == "ok"
    found = states(ledger)
    assert found["settled"] == 50
    assert 0 < found["refused"] < 3_000
    ids = [row["id"] for row in rows(ledger) if row["state"] == "refused"]
    assert ids == list(range(ids[0], 3_051))
    assert discrepancies(ledger) == []


def test_rows_that_cost_money_are_never_pruned(ledger):
    answer(ledger, 500)
    size = keep_budget(ledger.connection, 1, NOW_NS)
    assert size.level == "over"
    assert states(ledger) == {"settled": 500}
    assert discrepancies(ledger) == []


def test_rejected_rows_of_the_last_hour_stay(ledger):
    reject(ledger, 500, NOW_NS - KEPT_NS)
    assert keep_budget(ledger.connection, 1, NOW_NS).level == "over"
    assert states(ledger) == {"refused": 500}


def test_canaries_open_rows_and_the_newest_row_stay(ledger):
    admit(ledger, now_ns=OLD_NS)
    ledger.record([[REJECTED._replace(is_canary=True)]], OLD_NS)
    reject(ledger, 500)
    keep_budget(ledger.connection, 1, NOW_NS)
    assert [(row["state"], row["canary"], row["id"]) for row in rows(ledger)] == [
        ("admitted", 0, 1),
        ("refused", 1, 2),
        ("refused", 0, 502),
    ]


def test_a_call_prunes_a_limited_number_of_rows_because_requests_wait(ledger, monkeypatch):
    monkeypatch.setattr(size_budget, "MAX_BATCHES", 2)
    monkeypatch.setattr(size_budget, "PRUNE_BATCH_ROWS", 10)
    reject(ledger, 100)
    keep_budget(ledger.connection, 1, NOW_NS)
    assert states(ledger) == {"refused": 80}


def test_over_the_budget_every_rejection_is_sampled_and_every_request_is_still_served(ledger):
    keep_budget(ledger.connection, 1, NOW_NS)
    reject(ledger, 100, NOW_NS)
    assert states(ledger) == {"refused": SAMPLE_ROWS}
    assert ledger.settle([settlement(admit(ledger, now_ns=NOW_NS))], NOW_NS) == [True]
    assert discrepancies(ledger) == []
    keep_budget(ledger.connection, 0, NOW_NS)
    reject(ledger, 100, NOW_NS)
    assert states(ledger)["refused"] == SAMPLE_ROWS + 100


def test_each_change_of_the_level_is_one_event(ledger):
    answer(ledger, 500)
    used = used_bytes(ledger)
    for max_bytes in (2 * used, int(used / 0.85), int(used / 0.85), used - 1, used - 1, 2 * used, 0):
        keep_budget(ledger.connection, max_bytes, NOW_NS)
    found = size_events(ledger)
    assert [event["data"]["level"] for event in found] == ["near", "over", "ok"]
    assert found[0]["data"]["max_bytes"] == int(used / 0.85)
    assert found[0]["subject"] == "near"


def test_the_level_is_ok_again_only_clearly_below_the_budget(ledger):
    answer(ledger, 500)
    used = used_bytes(ledger)
    levels = [keep_budget(ledger.connection, int(used / share), NOW_NS).level for share in (0.79, 0.81, 0.77, 0.7)]
    assert levels == ["ok", "near", "near", "ok"]


def test_the_size_is_stored_for_other_processes(ledger):
    assert read_size(ledger.connection) == LedgerSize()
    size = keep_budget(ledger.connection, 1 << 40, NOW_NS)
    assert read_size(ledger.connection) == size


def test_an_unchanged_size_is_not_written_again(ledger):
    keep_budget(ledger.connection, 0, NOW_NS)
    num_changes = ledger.connection.total_changes
    keep_budget(ledger.connection, 0, NOW_NS)
    assert ledger.connection.total_changes == num_changes


def test_pruned_pages_are_used_again(ledger, tmp_path):
    for _ in range(20):
        reject(ledger, 500)
        keep_budget(ledger.connection, 200_000, NOW_NS)
    checkpoint(ledger.connection)
    assert (tmp_path / "ledger.db").stat().st_size < 600_000
