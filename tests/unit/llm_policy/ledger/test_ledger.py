"""The states of a ledger row, the totals and the engine queue."""

import sqlite3
import time

import pytest

from engine_process.usage_journal import UsageJournal
from llm_policy.ledger import metric_total
from llm_policy.ledger.engine_queue import MAX_OPEN_S
from llm_policy.ledger.engine_usage import FILE_NAME
from llm_policy.ledger.ledger import ENDED_GRACE_S, MISSING_GRACE_S
from llm_policy.ledger.row_record import RowRecord
from llmstack.ledger.verification import verify
from tests.ledgers import NEW_ROW, admit, open_ledger, rejection, rows, settlement, sheds, states, total

REJECTED = NEW_ROW._replace(code="invalid_input")
SECOND_ROW = NEW_ROW._replace(row_number=1)
CANARY = NEW_ROW._replace(is_canary=True)
SECOND_NS = 1_000_000_000


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path)
    yield opened
    opened.connection.close()


def nonzero_totals(ledger):
    return {key: value for key, value in metric_total.read_totals(ledger.connection).items() if value}


def count_queue_queries(ledger, call):
    """The number of times that `call` counts the open rows."""
    statements = []
    ledger.connection.set_trace_callback(statements.append)
    call()
    ledger.connection.set_trace_callback(None)
    return sum("INDEXED BY request_open" in statement for statement in statements)


def shed_of(ledger, tenant, num_requests):
    """Record requests of one tenant, one at a time. Returns for each whether it was shed."""
    row = NEW_ROW._replace(tenant=tenant, max_completion_tokens=500)
    return [ledger.record([[row]])[0][0].code == "overloaded" for _ in range(num_requests)]


def test_an_admitted_row_is_open_and_charged_for_its_prompt(ledger):
    admit(ledger)
    (row,) = rows(ledger)
    assert (row["state"], row["actual_nano_usd"], row["projected_nano_usd"]) == ("admitted", 50_000, 200_000)
    assert row["closed_ns"] is None


def test_an_admitted_row_is_in_no_total_yet(ledger):
    admit(ledger)
    assert not any(metric_total.read_totals(ledger.connection).values())


def test_a_settled_row_has_the_actual_cost(ledger):
    assert ledger.settle([settlement(admit(ledger), flags=["truncated"])]) == [True]
    (row,) = rows(ledger)
    assert (row["state"], row["actual_nano_usd"], row["num_completion_tokens"]) == ("settled", 62_000, 40)
    assert (row["queue_delay_us"], row["flags"]) == (900, "truncated")


def test_a_settled_row_adds_its_tokens_and_cost_to_the_totals(ledger):
    ledger.settle([settlement(admit(ledger))])
    assert total(ledger, metric_total.REQUESTS, "judge,settled") == 1
    assert total(ledger, metric_total.TOKENS_IN) == 500
    assert total(ledger, metric_total.TOKENS_OUT) == 40
    assert total(ledger, metric_total.COST) == 62_000


def test_a_rejected_request_is_one_row_that_costs_nothing(ledger):
    ledger.record([[REJECTED]])
    (row,) = rows(ledger)
    assert (row["state"], row["code"], row["actual_nano_usd"]) == ("refused", "invalid_input", 0)
    assert row["closed_ns"] == row["admitted_ns"]
    assert total(ledger, metric_total.REJECTED, "invalid_input") == 1
    assert total(ledger, metric_total.COST) == 0


def test_a_request_without_a_task_is_counted_as_none(ledger):
    ledger.record([[RowRecord(code="missing_header")]])
    assert total(ledger, metric_total.REQUESTS, "none,refused") == 1


def test_each_row_of_a_request_is_a_ledger_row(ledger):
    (recorded,) = ledger.record([[NEW_ROW, SECOND_ROW._replace(schema_id="ticket")]])
    assert len({row.ledger_id for row in recorded}) == 2
    assert [(row["row_number"], row["schema_id"]) for row in rows(ledger)] == [(0, "order"), (1, "ticket")]


def test_an_admitted_row_can_be_rejected(ledger):
    ledger.reject([rejection(admit(ledger), "schema_too_complex")])
    (row,) = rows(ledger)
    assert (row["state"], row["code"], row["actual_nano_usd"]) == ("refused", "schema_too_complex", 0)
    assert total(ledger, metric_total.REJECTED, "schema_too_complex") == 1


def test_a_row_is_settled_only_once(ledger):
    row_id = admit(ledger)
    assert ledger.settle([settlement(row_id)]) == [True]
    assert ledger.settle([settlement(row_id)]) == [False]
    assert total(ledger, metric_total.COST) == 62_000


def test_an_unknown_row_is_not_settled(ledger):
    assert ledger.settle([settlement(4_711)]) == [False]


def test_a_rejected_row_is_not_settled(ledger):
    row_id = admit(ledger)
    ledger.reject([rejection(row_id, "internal")])
    assert ledger.settle([settlement(row_id)]) == [False]
    assert total(ledger, metric_total.COST) == 0


def test_a_row_not_answered_in_time_is_cancelled_and_costs_its_prompt(ledger):
    now_ns = time.time_ns()
    admit(ledger, now_ns=now_ns)
    assert ledger.close_unanswered(now_ns + MAX_OPEN_S * SECOND_NS) == 0
    assert ledger.close_unanswered(now_ns + MAX_OPEN_S * SECOND_NS + 1) == 1
    (row,) = rows(ledger)
    assert (row["state"], row["actual_nano_usd"]) == ("cancelled", 50_000)
    assert total(ledger, metric_total.COST) == 50_000
    assert total(ledger, metric_total.TOKENS_IN) == 500


def test_a_row_of_an_earlier_boot_is_lost_immediately(ledger, tmp_path):
    admit(open_ledger(tmp_path, boot_id="boot-0"))
    admit(ledger)
    assert ledger.close_unanswered(time.time_ns()) == 1
    assert states(ledger) == {"lost": 1, "admitted": 1}


def test_a_late_answer_settles_its_row_and_counts_its_prompt_once(ledger):
    row_id = admit(ledger)
    ledger.close_unanswered(time.time_ns() + 1, max_open_s=0)
    assert ledger.settle([settlement(row_id)]) == [True]
    (row,) = rows(ledger)
    assert (row["state"], row["swept_as"]) == ("settled", "cancelled")
    assert total(ledger, metric_total.TOKENS_IN) == 500
    assert total(ledger, metric_total.COST) == 62_000
    assert total(ledger, metric_total.REQUESTS, "judge,late") == 1


def test_more_unanswered_rows_than_one_batch_are_all_closed(ledger, monkeypatch):
    monkeypatch.setattr("llm_policy.ledger.ledger._UNANSWERED_ROWS", 5)
    monkeypatch.setattr("llm_policy.ledger.ledger._CLOSE_BATCH_ROWS", 3)
    for _ in range(10):
        admit(ledger)
    assert ledger.close_unanswered(time.time_ns() + 1, max_open_s=0) == 10


def test_canary_rows_are_in_the_ledger_but_in_no_total(ledger):
    ledger.settle([settlement(admit(ledger, CANARY), CANARY, flags=["queue_delay_breach"])])
    ledger.record([[CANARY._replace(code="internal")]])
    admit(ledger, CANARY)
    ledger.close_unanswered(time.time_ns() + 1, max_open_s=0)
    assert [row["canary"] for row in rows(ledger)] == [1, 1, 1]
    assert not any(metric_total.read_totals(ledger.connection).values())


def test_a_batch_is_not_written_if_one_of_its_rows_fails(ledger):
    good, bad = settlement(admit(ledger)), settlement(admit(ledger), actual_nano_usd=None)
    with pytest.raises(sqlite3.IntegrityError):
        ledger.settle([good, bad])
    assert states(ledger) == {"admitted": 2}
    assert total(ledger, metric_total.COST) == 0


def test_a_full_queue_sheds_the_next_request(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=2)
    assert sheds(ledger, 3) == [False, False, True]
    assert [row["code"] for row in rows(ledger)] == ["", "", "overloaded"]
    assert (
        ledger.refusal("acme", False).detail
        == "2 requests of tenant acme wait for their answers, limit 2 (max_queue_size)"
    )


def test_every_row_has_an_id_admitted_rejected_or_shed(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=1)
    recorded = ledger.record([[REJECTED], [NEW_ROW, SECOND_ROW], [NEW_ROW]])
    assert [[row.code for row in request] for request in recorded] == [["invalid_input"], ["", ""], ["overloaded"]]
    assert [row.ledger_id for request in recorded for row in request] == [row["id"] for row in rows(ledger)]


def test_a_request_of_several_rows_takes_one_place_in_the_queue(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=2)
    three_rows = [NEW_ROW._replace(row_number=number) for number in range(3)]
    assert [request[0].code for request in ledger.record([three_rows, [NEW_ROW]])] == ["", ""]


def test_an_answer_frees_a_place_in_the_queue(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=1)
    row_id = admit(ledger)
    assert sheds(ledger) == [True]
    ledger.settle([settlement(row_id)])
    assert not ledger.refusal("acme", False)
    admit(ledger)


def test_two_processes_share_one_queue(tmp_path):
    one, two = open_ledger(tmp_path, max_queue_size=1), open_ledger(tmp_path, max_queue_size=1)
    admit(one)
    assert sheds(two) == [True]


def test_rows_of_an_earlier_boot_take_no_place_in_the_queue(tmp_path):
    admit(open_ledger(tmp_path, boot_id="boot-0", max_queue_size=1))
    admit(open_ledger(tmp_path, boot_id="boot-1", max_queue_size=1))


def test_the_canary_is_never_shed(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=1)
    admit(ledger)
    admit(ledger, CANARY)


def test_requests_recorded_as_dead_take_no_place_in_the_queue(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=2)
    ledger.record([[NEW_ROW], [NEW_ROW]])
    ledger.record_dead_requests(1)
    assert sheds(ledger, 2) == [False, True]


def test_dead_requests_free_places_of_all_tenants_in_proportion(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=4)
    assert shed_of(ledger, "other", 2) == [False, False]
    assert shed_of(ledger, "acme", 2) == [False, False]
    ledger.record_dead_requests(2)
    assert shed_of(ledger, "acme", 2) == [False, True]  # of its 2 requests and the other's 2, one each is dead


def test_dead_requests_of_another_boot_free_no_place(tmp_path):
    open_ledger(tmp_path, boot_id="boot-0").record_dead_requests(5)
    ledger = open_ledger(tmp_path, max_queue_size=1)
    admit(ledger)
    assert sheds(ledger) == [True]


def test_requests_open_much_longer_than_answers_take_free_their_place(tmp_path):
    """Triton does not report calls that a client cancelled."""
    ledger = open_ledger(tmp_path, max_queue_size=1)
    now_ns = time.time_ns()
    ledger.settle([settlement(admit(ledger, now_ns=now_ns))], now_ns + SECOND_NS)
    admit(ledger, now_ns=now_ns)
    assert sheds(ledger, now_ns=now_ns + 5 * SECOND_NS) == [True]
    assert sheds(ledger, now_ns=now_ns + 20 * SECOND_NS) == [False]


def test_before_the_first_answer_every_open_request_keeps_its_place(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=1)
    now_ns = time.time_ns()
    admit(ledger, now_ns=now_ns)
    assert sheds(ledger, now_ns=now_ns + 100 * SECOND_NS) == [True]


def test_deaths_recorded_long_ago_free_no_place(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=1)
    now_ns = time.time_ns()
    ledger.record_dead_requests(7, now_ns)
    later_ns = now_ns + 2 * MAX_OPEN_S * SECOND_NS
    admit(ledger, now_ns=later_ns)
    assert sheds(ledger, now_ns=later_ns) == [True]
    ledger.record_dead_requests(8, later_ns)
    assert sheds(ledger, now_ns=later_ns) == [False]


def test_an_idle_queue_is_not_full_and_is_not_queried(ledger):
    assert count_queue_queries(ledger, lambda: ledger.refusal("acme", False)) == 0
    assert ledger.refusal("acme", False) is None


def test_the_queue_is_queried_only_for_a_tenant_whose_last_request_was_shed(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=1)
    admit(ledger)
    assert count_queue_queries(ledger, lambda: ledger.refusal("acme", False)) == 0
    assert sheds(ledger) == [True]
    assert count_queue_queries(ledger, lambda: ledger.refusal("acme", False)) > 0
    assert count_queue_queries(ledger, lambda: ledger.refusal("other", False)) == 0


def test_a_tenant_that_fills_the_queue_keeps_no_other_out(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=4)
    assert sheds(ledger, 5) == [False, False, False, False, True]
    ((shed,),) = ledger.record([[NEW_ROW]])
    assert shed.code_detail == "4 requests of tenant acme wait for their answers, limit 4 (max_queue_size)"
    assert shed_of(ledger, "other", 3) == [False, False, True]
    assert shed_of(ledger, "third", 2) == [False, True]
    assert shed_of(ledger, "acme", 1) == [True]
    assert ledger.refusal("third", False).detail == (
        "1 requests of tenant third wait for their answers, limit 1 (max_queue_size among 3 tenants)"
    )


def test_a_queue_that_is_not_full_takes_more_than_a_tenants_share(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=4)
    assert shed_of(ledger, "other", 1) == [False]
    assert sheds(ledger, 4) == [False, False, False, True]


def test_all_tenants_together_have_twice_the_queue(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=3)
    tenants = [f"tenant-{number}" for number in range(7)]
    assert [shed_of(ledger, tenant, 1) for tenant in tenants] == [[False]] * 6 + [[True]]
    assert (
        ledger.refusal("tenant-6", False).detail
        == "6 requests of all tenants wait for their answers, limit 6 (twice max_queue_size)"
    )


def test_the_tokens_that_a_tenants_requests_may_still_need_are_limited(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_tokens=1_200)
    row = NEW_ROW._replace(max_completion_tokens=500)  # as its price says
    assert [bool(request[0].code) for request in ledger.record([[row]] * 3)] == [False, False, True]
    assert shed_of(ledger, "other", 2) == [False, True]
    ((shed,),) = ledger.record([[row]])
    assert shed.code_detail == (
        "requests of tenant acme need up to 1500 tokens, limit 600 (max_queue_tokens among 2 tenants)"
    )


def test_a_tenant_without_a_waiting_request_may_send_one_of_any_size(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_tokens=1)
    assert sheds(ledger, 2) == [False, True]


def test_a_tenant_in_the_queue_is_named_also_without_a_name(tmp_path):
    ledger = open_ledger(tmp_path, max_queue_size=1)
    ledger.record([[NEW_ROW._replace(tenant="")]] * 2)
    assert ledger.refusal("", False).detail == (
        "1 requests of clients without X-Tenant wait for their answers, limit 1 (max_queue_size)"
    )


def test_the_queue_is_not_queried_for_requests_that_are_rejected_already(ledger):
    assert count_queue_queries(ledger, lambda: ledger.record([[REJECTED]])) == 0
    assert count_queue_queries(ledger, lambda: ledger.record([[NEW_ROW]])) == 1


def test_a_rejected_request_is_counted_once_by_task_and_once_by_code(ledger):
    ledger.record([[REJECTED]])
    assert nonzero_totals(ledger) == {
        (metric_total.REQUESTS, "judge,refused"): 1,
        (metric_total.REJECTED, "invalid_input"): 1,
    }


def test_an_admitted_row_that_is_rejected_is_counted_once_by_task_and_once_by_code(ledger):
    ledger.reject([rejection(admit(ledger), "internal")])
    assert nonzero_totals(ledger) == {
        (metric_total.REQUESTS, "judge,refused"): 1,
        (metric_total.REJECTED, "internal"): 1,
    }


def test_an_admitted_row_is_rejected_at_the_current_time_unless_one_is_given(ledger):
    before_ns = time.time_ns()
    ledger.reject([rejection(admit(ledger), "internal")])
    ledger.reject([rejection(admit(ledger), "internal")], now_ns=7)
    first, second = rows(ledger)
    assert before_ns <= first["closed_ns"] <= time.time_ns()
    assert second["closed_ns"] == 7


def test_a_canary_row_that_is_rejected_later_is_in_no_total(ledger):
    ledger.reject([rejection(admit(ledger, CANARY), "internal", CANARY)])
    assert states(ledger) == {"refused": 1}
    assert nonzero_totals(ledger) == {}


def test_a_late_answer_of_a_canary_is_in_no_total(ledger):
    row_id = admit(ledger, CANARY)
    ledger.close_unanswered(time.time_ns() + 1, max_open_s=0)
    assert ledger.settle([settlement(row_id, CANARY)]) == [True]
    assert nonzero_totals(ledger) == {}


def test_a_cancelled_row_is_counted_by_task_and_has_no_error_code(ledger):
    now_ns = time.time_ns()
    admit(ledger, now_ns=now_ns)
    ledger.close_unanswered(now_ns + 1, max_open_s=0)
    assert rows(ledger)[0]["closed_ns"] == now_ns + 1
    assert nonzero_totals(ledger) == {
        (metric_total.REQUESTS, "judge,cancelled"): 1,
        (metric_total.TOKENS_IN, ""): 500,
        (metric_total.COST, ""): 50_000,
    }


def test_a_row_answered_while_its_batch_is_closed_stays_settled_and_does_not_delay_the_others(
    ledger, tmp_path, monkeypatch
):
    answered, unanswered = admit(ledger), admit(ledger)
    num_found = []
    query, other_process = ledger._unanswered, open_ledger(tmp_path)

    def query_then_answer(before_ns):
        found = query(before_ns)
        num_found.append(len(found))
        other_process.settle([settlement(answered)])
        return found

    monkeypatch.setattr(ledger, "_unanswered", query_then_answer)
    assert ledger.close_unanswered(time.time_ns() + 1, max_open_s=0) == 1
    assert {row["id"]: row["state"] for row in rows(ledger)} == {answered: "settled", unanswered: "cancelled"}
    assert num_found == [2, 0, 0]  # the last query is for rows that the engine ended
    assert total(ledger, metric_total.COST) == 62_000 + 50_000


def test_only_closed_canary_rows_admitted_before_the_limit_are_deleted(ledger):
    closed = [admit(ledger, row, at_ns) for row, at_ns in ((CANARY, 99), (CANARY, 100), (NEW_ROW, 99))]
    ledger.settle([settlement(row_id) for row_id in closed])
    still_open = admit(ledger, CANARY, 99)
    newest = admit(ledger, NEW_ROW, 99)
    assert ledger.delete_old_canaries(100) == 1
    assert [row["id"] for row in rows(ledger)] == [*closed[1:], still_open, newest]


def test_the_newest_row_is_not_deleted_because_its_id_would_be_reused(ledger):
    ledger.settle([settlement(admit(ledger, CANARY, 99), CANARY)])
    assert ledger.delete_old_canaries(100) == 0
    assert states(ledger) == {"settled": 1}


def test_old_canary_rows_are_deleted_in_batches(ledger, monkeypatch):
    monkeypatch.setattr("llm_policy.ledger.ledger._DELETE_BATCH_ROWS", 3)
    ledger.settle([settlement(admit(ledger, CANARY, 99), CANARY) for _ in range(4)])
    admit(ledger)
    assert [ledger.delete_old_canaries(100) for _ in range(3)] == [3, 1, 0]


def test_a_row_that_the_engine_ended_at_its_limit_is_cancelled_and_charged(ledger):
    row_id = admit(ledger)
    assert ledger.settle([settlement(row_id, code="deadline_exceeded")]) == [True]
    (row,) = rows(ledger)
    assert (row["state"], row["code"], row["actual_nano_usd"]) == ("cancelled", "deadline_exceeded", 62_000)
    assert (row["num_completion_tokens"], row["swept_as"]) == (40, "")
    assert nonzero_totals(ledger) == {
        (metric_total.REQUESTS, "judge,cancelled"): 1,
        (metric_total.TOKENS_IN, ""): 500,
        (metric_total.TOKENS_OUT, ""): 40,
        (metric_total.COST, ""): 62_000,
    }
    assert ledger.settle([settlement(row_id)]) == [False]


def note_usage(path, ledger_id, num_tokens, boot_id="boot-1", *, has_ended=False):
    """Note a row's tokens as the engine does."""
    journal = UsageJournal(path / FILE_NAME, log=pytest.fail)
    journal.note(boot_id, ledger_id, num_tokens, has_ended=has_ended)
    journal.flush()
    journal.close()


def test_a_row_without_an_answer_is_charged_for_the_tokens_that_the_engine_noted(ledger, tmp_path):
    first, second = admit(ledger), admit(ledger)
    note_usage(tmp_path, first, 40)
    note_usage(tmp_path, second, 40, boot_id="boot-0")  # of an earlier ledger in this directory
    ledger.close_unanswered(time.time_ns() + 1, max_open_s=0)
    assert [(row["num_completion_tokens"], row["actual_nano_usd"]) for row in rows(ledger)] == [
        (40, 50_000 + 40 * 300),
        (0, 50_000),
    ]
    assert (total(ledger, metric_total.TOKENS_OUT), total(ledger, metric_total.COST)) == (40, 112_000)
    assert verify(ledger.connection, time.time_ns(), 600).discrepancies == []


def test_a_row_that_the_engine_ended_long_before_has_nobody_who_waits_for_it(ledger, tmp_path):
    ended, running, new = admit(ledger), admit(ledger), admit(ledger, now_ns=time.time_ns() + 60 * SECOND_NS)
    note_usage(tmp_path, ended, 40, has_ended=True)
    note_usage(tmp_path, running, 40)
    note_usage(tmp_path, new, 40, has_ended=True)
    assert ledger.close_unanswered(time.time_ns() + (ENDED_GRACE_S - 1) * SECOND_NS) == 0
    assert ledger.close_unanswered(time.time_ns() + (ENDED_GRACE_S + 1) * SECOND_NS) == 1
    assert [row["state"] for row in rows(ledger)] == ["cancelled", "admitted", "admitted"]
    assert rows(ledger)[0]["actual_nano_usd"] == 62_000
    assert ledger.settle([settlement(ended)]) == [True]  # the answer came after all


def test_a_row_that_ended_waits_for_the_other_rows_of_its_request(ledger, tmp_path):
    ((first, second),) = ledger.record([[NEW_ROW, SECOND_ROW]])
    note_usage(tmp_path, first.ledger_id, 40, has_ended=True)
    later_ns = time.time_ns() + 2 * ENDED_GRACE_S * SECOND_NS
    assert ledger.close_unanswered(later_ns) == 0
    note_usage(tmp_path, second.ledger_id, 40, has_ended=True)
    assert ledger.close_unanswered(later_ns) == 2


def test_a_row_that_never_came_to_the_engine_has_nobody_who_waits_for_it(ledger, tmp_path):
    missing, waiting, newest = admit(ledger), admit(ledger), admit(ledger)
    later_ns = time.time_ns() + (MISSING_GRACE_S + 1) * SECOND_NS
    assert ledger.close_unanswered(later_ns) == 0  # no engine that notes its rows is known
    note_usage(tmp_path, waiting, 0)
    note_usage(tmp_path, newest, 0)
    assert ledger.close_unanswered(time.time_ns() + (MISSING_GRACE_S - 1) * SECOND_NS) == 0
    assert ledger.close_unanswered(later_ns) == 1
    assert [row["state"] for row in rows(ledger)] == ["cancelled", "admitted", "admitted"]
    assert rows(ledger)[0]["actual_nano_usd"] == 50_000
    assert ledger.settle([settlement(missing)]) == [True]  # the answer came after all


def test_more_ended_rows_than_are_read_at_once_are_all_closed(ledger, tmp_path, monkeypatch):
    monkeypatch.setattr("llm_policy.ledger.ledger._UNANSWERED_ROWS", 3)
    for _ in range(8):
        note_usage(tmp_path, admit(ledger), 1, has_ended=True)
    assert ledger.close_unanswered(time.time_ns() + (ENDED_GRACE_S + 1) * SECOND_NS) == 8


def test_a_lost_row_is_charged_for_the_tokens_that_its_server_noted(tmp_path):
    note_usage(tmp_path, admit(open_ledger(tmp_path, boot_id="boot-0")), 40, boot_id="boot-0")
    ledger = open_ledger(tmp_path)
    ledger.close_unanswered(time.time_ns())
    (row,) = rows(ledger)
    assert (row["state"], row["actual_nano_usd"]) == ("lost", 62_000)


def test_a_row_is_never_charged_more_than_was_reserved(ledger, tmp_path):
    note_usage(tmp_path, admit(ledger), 10_000)
    ledger.close_unanswered(time.time_ns() + 1, max_open_s=0)
    (row,) = rows(ledger)
    assert (row["num_completion_tokens"], row["actual_nano_usd"]) == (500, row["projected_nano_usd"])


def test_a_late_answer_adds_only_what_was_not_charged_yet(ledger, tmp_path):
    row_id = admit(ledger)
    note_usage(tmp_path, row_id, 30)
    ledger.close_unanswered(time.time_ns() + 1, max_open_s=0)
    assert ledger.settle([settlement(row_id)]) == [True]
    assert (total(ledger, metric_total.TOKENS_OUT), total(ledger, metric_total.COST)) == (40, 62_000)
    assert verify(ledger.connection, time.time_ns(), 600).discrepancies == []


def test_a_late_answer_moves_the_usage_to_the_schema_of_the_compiled_guide(ledger):
    """A client's guide has no schema id until it is compiled, after its row was admitted."""
    row = NEW_ROW._replace(schema_id="")
    row_id = admit(ledger, row)
    ledger.close_unanswered(time.time_ns() + 1, max_open_s=0)
    assert ledger.settle([settlement(row_id, row, schema_id="sha256:" + "c" * 64)]) == [True]
    usage = ledger.connection.execute(
        "SELECT schema_id, num_rows, num_prompt_tokens, num_completion_tokens, nano_usd FROM usage_day ORDER BY 1"
    )
    assert usage.fetchall() == [("", 0, 0, 0, 0), ("ad hoc", 1, 500, 40, 62_000)]
    assert verify(ledger.connection, time.time_ns(), 600).discrepancies == []


def test_unreadable_notes_leave_the_prompts_charge(ledger, tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 100)
    admit(ledger)
    ledger.close_unanswered(time.time_ns() + 1, max_open_s=0)
    assert rows(ledger)[0]["actual_nano_usd"] == 50_000
