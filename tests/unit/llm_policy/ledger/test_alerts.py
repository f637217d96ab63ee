"""Alert windows: the first breach is reported immediately, later ones in one summary."""

import json
import time

import pytest

from llm_policy.ledger import alerts, metric_total
from llm_policy.ledger.alerts import MAX_REQUESTS_PER_EVENT, MAX_SAMPLES, WINDOW_NS
from llm_policy.ledger.database import transaction
from tests.ledgers import NEW_ROW, admit, events, open_ledger, settlement, total
from tests.manifests import ENGINE_HASH

NOW_NS = time.time_ns()


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path)
    yield opened
    opened.connection.close()


def breach(ledger, flag="queue_delay_breach", at_ns=NOW_NS, request_id="r-1", **changes):
    row = NEW_ROW._replace(request_id=request_id)
    row_id = admit(ledger, row, at_ns)
    ledger.settle([settlement(row_id, row, [flag], **changes)], at_ns)
    return row_id


def close_due(ledger, at_ns=NOW_NS + WINDOW_NS):
    with transaction(ledger.connection):
        return alerts.close_due_windows(ledger.connection, at_ns)


def test_the_first_breach_is_reported_immediately(ledger):
    breach(ledger, queue_delay_us=3_100)
    (event,) = events(ledger)
    assert {name: event[name] for name in ("rule", "phase", "threshold", "observed_max", "count", "samples")} == {
        "rule": "queue_delay",
        "phase": "first",
        "threshold": 2_500,
        "observed_max": 3_100,
        "count": 1,
        "samples": ["r-1"],
    }
    assert (event["engine_hash"], event["quantisation"]) == (ENGINE_HASH, "w4a8")
    assert event["window_start"] < event["window_end"]


def test_later_breaches_of_a_window_are_reported_in_one_summary(ledger):
    for number in range(5):
        breach(ledger, request_id=f"r-{number}", queue_delay_us=3_000 + number)
    assert len(events(ledger)) == 1
    assert close_due(ledger) == 1
    _, summary = events(ledger)
    assert (summary["phase"], summary["count"], summary["observed_max"]) == ("summary", 4, 3_004)
    assert summary["samples"] == ["r-1", "r-2", "r-3", "r-4"]


def test_event_counts_add_up_to_the_number_of_breaches(ledger):
    for number in range(30):
        breach(ledger, at_ns=NOW_NS + number * WINDOW_NS // 10)
    close_due(ledger, NOW_NS + 10 * WINDOW_NS)
    assert sum(event["count"] for event in events(ledger)) == 30 == total(ledger, metric_total.ALERTS, "queue_delay")


def test_a_window_with_one_breach_has_no_summary(ledger):
    breach(ledger)
    assert close_due(ledger) == 1
    assert len(events(ledger)) == 1


def test_a_window_is_not_closed_before_its_end(ledger):
    breach(ledger)
    assert close_due(ledger, NOW_NS + WINDOW_NS - 1) == 0


def test_a_breach_after_the_end_of_a_window_is_reported_immediately(ledger):
    breach(ledger)
    breach(ledger, at_ns=NOW_NS + WINDOW_NS)
    assert [event["phase"] for event in events(ledger)] == ["first", "first"]


def test_a_breach_after_the_end_closes_a_window_that_is_still_open(ledger):
    breach(ledger)
    breach(ledger)
    breach(ledger, at_ns=NOW_NS + WINDOW_NS)
    assert [event["phase"] for event in events(ledger)] == ["first", "summary", "first"]


def test_a_restart_neither_repeats_nor_loses_breaches(ledger, tmp_path):
    breach(ledger)
    breach(ledger)
    restarted = open_ledger(tmp_path, boot_id="boot-2")
    breach(restarted)
    close_due(restarted)
    close_due(ledger)
    assert [(event["phase"], event["count"]) for event in events(restarted)] == [("first", 1), ("summary", 2)]


def test_a_clock_set_back_does_not_keep_a_window_open(ledger):
    breach(ledger)
    breach(ledger)
    assert close_due(ledger, NOW_NS - WINDOW_NS) == 1


def test_a_summary_lists_up_to_ten_samples(ledger):
    for number in range(20):
        breach(ledger, request_id=f"r-{number}")
    close_due(ledger)
    assert events(ledger)[1]["samples"] == [f"r-{number}" for number in range(1, 11)]


def test_a_request_without_an_id_is_listed_by_its_ledger_id(ledger):
    row_id = breach(ledger, request_id="")
    assert events(ledger)[0]["samples"] == [f"ledger:{row_id}"]


def test_each_rule_has_its_own_window(ledger):
    breach(ledger)
    breach(ledger, "schema_violation")
    assert [event["rule"] for event in events(ledger)] == ["queue_delay", "schema_violation"]
    assert total(ledger, metric_total.VIOLATIONS) == 1


def test_a_truncated_answer_is_not_a_breach(ledger):
    breach(ledger, "truncated")
    assert events(ledger) == []


def test_only_cost_alerts_go_to_the_finance_webhook(ledger):
    breach(ledger)
    assert events(ledger, "finance") == []


def test_finance_events_list_every_breaching_request_of_the_window(ledger):
    ids = [
        breach(ledger, "cost_breach", request_id=f"r-{number}", actual_nano_usd=10**8 + number) for number in range(25)
    ]
    close_due(ledger)
    listed = [request for event in events(ledger, "finance") for request in event["requests"]]
    assert [request["ledger_id"] for request in listed] == ids
    assert listed[3] == {"ledger_id": ids[3], "request_id": "r-3", "tenant": "acme", "cost_usd": 0.100000003}


def test_a_cost_alert_is_in_dollars(ledger):
    breach(ledger, "cost_breach", actual_nano_usd=123_456_789)
    (event,) = events(ledger)
    assert (event["threshold"], event["observed_max"]) == (0.1, 0.123456789)


def test_a_long_list_of_costly_requests_is_split_into_several_events(ledger, monkeypatch):
    monkeypatch.setattr(alerts, "MAX_REQUESTS_PER_EVENT", 10)
    for number in range(26):
        breach(ledger, "cost_breach", actual_nano_usd=10**8 + number)
    close_due(ledger)
    reported = events(ledger, "finance")
    assert [event["count"] for event in reported] == [1, 10, 10, 5] == [len(event["requests"]) for event in reported]
    assert [event["phase"] for event in reported] == ["first", "summary", "summary", "summary"]
    assert [event["observed_max"] for event in reported] == [0.1, 0.10000001, 0.10000002, 0.100000025]
    assert [event["count"] for event in events(ledger)] == [1, 25]
    assert MAX_REQUESTS_PER_EVENT > MAX_SAMPLES


def test_an_alert_and_its_row_are_one_transaction(ledger):
    row_id = admit(ledger)
    ledger.connection.execute(
        "CREATE TRIGGER full BEFORE INSERT ON event BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
    )
    with pytest.raises(Exception, match="full"):
        ledger.settle([settlement(row_id, flags=["cost_breach"])])
    assert ledger.connection.execute("SELECT state FROM request").fetchall() == [("admitted",)]
    assert total(ledger, metric_total.ALERTS, "cost") == 0


def test_the_parent_process_can_report_an_unhealthy_engine(ledger):
    with transaction(ledger.connection):
        alerts.record_breach(
            ledger.connection,
            alerts.AlertRule(alerts.ENGINE_UNHEALTHY, 0, ENGINE_HASH, "w4a8"),
            alerts.Breach(1),
            NOW_NS,
        )
    (event,) = events(ledger)
    assert (event["rule"], event["count"], event["samples"]) == ("engine_unhealthy", 1, [])


def test_a_breach_of_another_engine_closes_the_window_with_its_summary(ledger):
    other = "sha256:" + "1" * 64
    for at_ns, engine_hash in ((0, ENGINE_HASH), (1, ENGINE_HASH), (2, other), (3, other)):
        with transaction(ledger.connection):
            alerts.record_breach(
                ledger.connection,
                alerts.AlertRule(alerts.ENGINE_UNHEALTHY, 0, engine_hash, "w4a8"),
                alerts.Breach(1),
                NOW_NS + at_ns,
            )
    close_due(ledger, NOW_NS + 2 * WINDOW_NS)
    reported = [(event["phase"], event["engine_hash"], event["count"]) for event in events(ledger)]
    assert reported == [
        ("first", ENGINE_HASH, 1),
        ("summary", ENGINE_HASH, 1),
        ("first", other, 1),
        ("summary", other, 1),
    ]


def test_an_event_states_the_start_and_end_of_its_window_in_utc(ledger):
    breach(ledger, at_ns=1_700_000_000 * 1_000_000_000)
    (event,) = events(ledger)
    assert (event["window_start"], event["window_end"]) == ("2023-11-14T22:13:20Z", "2023-11-14T22:14:20Z")


def test_the_subject_of_an_alert_event_is_its_rule(ledger):
    breach(ledger, "cost_breach")
    bodies = ledger.connection.execute("SELECT body FROM event").fetchall()
    assert [json.loads(body)["subject"] for (body,) in bodies] == ["cost", "cost"]


def test_only_the_breaches_that_the_summary_lists_are_stored(ledger):
    for _ in range(MAX_SAMPLES + 5):
        breach(ledger)
    assert ledger.connection.execute("SELECT count(*) FROM alert_breach").fetchone() == (MAX_SAMPLES,)


def test_a_summary_of_breaches_that_observed_zero_has_the_maximum_zero(ledger):
    with transaction(ledger.connection):
        for _ in range(2):
            rule = alerts.AlertRule(alerts.ENGINE_UNHEALTHY, 0, ENGINE_HASH, "w4a8")
            alerts.record_breach(ledger.connection, rule, alerts.Breach(0), NOW_NS)
    close_due(ledger)
    assert [(event["phase"], event["observed_max"]) for event in events(ledger)] == [("first", 0), ("summary", 0)]


def test_a_schema_violation_observes_one_and_has_the_threshold_zero(ledger):
    breach(ledger, "schema_violation")
    (event,) = events(ledger)
    assert (event["observed_max"], event["threshold"]) == (1, 0)


def test_a_queue_delay_breach_is_not_counted_as_a_schema_violation(ledger):
    breach(ledger)
    assert total(ledger, metric_total.VIOLATIONS) == 0


def test_a_flag_without_a_rule_does_not_hide_the_flags_after_it(ledger):
    row_id = admit(ledger)
    ledger.settle([settlement(row_id, flags=["truncated", "schema_violation"])])
    assert [event["rule"] for event in events(ledger)] == ["schema_violation"]


def test_a_window_is_due_from_its_end_until_it_is_closed(ledger):
    assert not alerts.has_due_windows(ledger.connection, NOW_NS + WINDOW_NS)
    breach(ledger)
    assert not alerts.has_due_windows(ledger.connection, NOW_NS + WINDOW_NS - 1)
    assert alerts.has_due_windows(ledger.connection, NOW_NS + WINDOW_NS)
    close_due(ledger)
    assert not alerts.has_due_windows(ledger.connection, NOW_NS + WINDOW_NS)


def test_reported_breaches_are_counted_by_endpoint_and_rule(ledger):
    for flag in ("queue_delay_breach", "cost_breach", "cost_breach", "cost_breach"):
        breach(ledger, flag)
    close_due(ledger)
    assert alerts.count_reported_breaches(ledger.connection) == {
        ("readiness", "queue_delay"): 1,
        ("readiness", "cost"): 3,
        ("finance", "cost"): 3,
    }


def test_reported_breaches_can_be_counted_for_some_events_only(ledger):
    for flag in ("queue_delay_breach", "schema_violation", "cost_breach"):
        breach(ledger, flag)
    assert alerts.count_reported_breaches(ledger.connection, {1, 3}) == {
        ("readiness", "queue_delay"): 1,
        ("readiness", "cost"): 1,
    }
    assert alerts.count_reported_breaches(ledger.connection, []) == {}
