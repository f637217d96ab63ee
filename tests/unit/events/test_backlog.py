"""The backlog counts pending and failed deliveries by endpoint."""

import sqlite3

import pytest

from llm_policy.ledger.outbox import FINANCE, READINESS
from llmstack.events.backlog import metric_families, read_backlog
from llmstack.events.replay import replay_endpoint
from tests.unit.events.delivery_outcomes import DELIVERED, FAILED, GONE, NOW_NS, NS_PER_S, RETRY, record_outcomes


def test_the_backlog_has_the_pending_deliveries_of_every_endpoint(outbox, tmp_path):
    outbox.add(2, time_ns=NOW_NS - 90 * NS_PER_S)
    outbox.add(3, endpoints=(FINANCE,), time_ns=NOW_NS)
    record_outcomes(outbox, RETRY)
    readiness, finance = read_backlog(tmp_path, [READINESS], NOW_NS)
    assert readiness == (READINESS, True, "", 2, 90.0, "HTTP 500", 0)
    assert finance == (FINANCE, False, "", 3, 0.0, "", 0)
    record_outcomes(outbox, GONE)
    assert read_backlog(tmp_path, [READINESS], NOW_NS)[0] == (READINESS, True, "HTTP 410 Gone", 0, 0.0, "", 2)


def test_failed_deliveries_count_until_they_are_replayed(outbox, tmp_path):
    outbox.add(2)
    record_outcomes(outbox, FAILED, DELIVERED)
    assert read_backlog(tmp_path, [READINESS], NOW_NS)[0].num_failed == 1
    replay_endpoint(outbox.connection, READINESS)
    assert read_backlog(tmp_path, [READINESS], NOW_NS)[0].num_failed == 0


def test_reading_the_backlog_does_not_create_a_ledger(tmp_path):
    with pytest.raises(sqlite3.Error):
        read_backlog(tmp_path, [READINESS], NOW_NS)
    assert list(tmp_path.iterdir()) == []


def test_only_configured_endpoints_have_metrics(outbox, tmp_path):
    outbox.add(2, time_ns=NOW_NS - 90 * NS_PER_S)
    families = metric_families(read_backlog(tmp_path, [READINESS], NOW_NS))
    assert [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples] == [
        ("llm_delivery_backlog", {"endpoint": READINESS}, 2),
        ("llm_delivery_oldest_age_seconds", {"endpoint": READINESS}, 90.0),
        ("llm_delivery_failed", {"endpoint": READINESS}, 0),
        ("llm_delivery_disabled", {"endpoint": READINESS}, 0),
    ]
