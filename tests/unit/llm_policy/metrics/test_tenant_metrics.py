"""Metrics by tenant: bounded labels, sums that agree with the totals, counters that never go down."""

import random

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm_policy.ledger.budget_window import NS_PER_DAY
from llm_policy.ledger.database import FILE_NAME
from llm_policy.ledger.tenant import TenantLimits
from llm_policy.metrics.exposition import exposition
from llm_policy.metrics.tenant_metrics import TenantMetrics
from tests.ledgers import NEW_ROW, admit, open_ledger, rejection, settlement
from tests.tenants import add_tenant

DAY_NS = 20_000 * NS_PER_DAY  # 2024-10-04
LIMITS = TenantLimits(max_nano_usd_per_day=2_000_000, max_nano_usd_per_month=50_000_000)
ACME, STRANGER = NEW_ROW._replace(is_authenticated=True), NEW_ROW._replace(tenant="stranger")
COUNTERS = ("llm_tenant_cost_usd_total", "llm_tenant_tokens_total", "llm_tenant_requests_total")


@pytest.fixture
def ledger(tmp_path):
    opened = open_ledger(tmp_path)
    add_tenant(opened.connection, "acme", LIMITS)
    yield opened
    opened.connection.close()


def samples(state_dir, *tenants):
    """Value by (name, *label values), the labels in alphabetical order."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(exposition(state_dir, tenants).decode())
        for sample in family.samples
    }


def budgets(state_dir, now_ns):
    """Value by (name, budget) of the tenant acme at `now_ns`."""
    families = TenantMetrics(state_dir / FILE_NAME, ["acme"], lambda: now_ns).collect()
    return {
        (sample.name.removeprefix("llm_tenant_budget_"), sample.labels["budget"]): sample.value
        for family in families
        for sample in family.samples
        if "budget" in sample.labels
    }


def test_a_named_tenant_has_its_cost_tokens_and_rows(ledger, tmp_path):
    ledger.settle([settlement(admit(ledger, ACME), ACME, actual_nano_usd=62_000)])
    ledger.record([[ACME._replace(code="unknown_task")]])
    found = samples(tmp_path, "acme")
    assert round(found["llm_tenant_cost_usd_total", "acme"] * 1e9) == 62_000
    assert found["llm_tenant_tokens_total", "in", "acme"] == 500
    assert found["llm_tenant_tokens_total", "out", "acme"] == 40
    assert found["llm_tenant_requests_total", "closed", "acme"] == 1
    assert found["llm_tenant_requests_total", "refused", "acme"] == 1


def test_tenants_that_are_not_named_are_one_series(ledger, tmp_path):
    for row in (STRANGER, STRANGER._replace(tenant="another"), ACME):
        ledger.settle([settlement(admit(ledger, row), row)])
    found = samples(tmp_path, "acme")
    assert {name[-1] for name in found if name[0].startswith("llm_tenant_")} == {"acme", "other"}
    assert found["llm_tenant_requests_total", "closed", "other"] == 2


def test_without_names_everything_is_one_series_without_budgets(ledger, tmp_path):
    ledger.settle([settlement(admit(ledger, ACME), ACME)])
    found = {name: value for name, value in samples(tmp_path).items() if name[0].startswith("llm_tenant_")}
    assert {name[-1] for name in found} == {"other"}
    assert found["llm_tenant_tokens_total", "in", "other"] == 500
    assert not [name for name in found if "budget" in name[0]]


def test_the_series_of_a_tenant_exist_before_its_first_row(ledger, tmp_path):
    found = samples(tmp_path, "unknown")
    assert found["llm_tenant_cost_usd_total", "unknown"] == 0
    assert found["llm_tenant_requests_total", "refused", "unknown"] == 0
    assert found["llm_tenant_budget_spent_usd", "day", "unknown"] == 0
    assert ("llm_tenant_budget_usd", "day", "unknown") not in found


def test_a_budget_has_its_limit_what_is_spent_and_what_is_reserved(ledger, tmp_path):
    ledger_id = admit(ledger, ACME, DAY_NS)
    ledger.settle([settlement(ledger_id, ACME, actual_nano_usd=62_000)], DAY_NS)
    admit(ledger, ACME, DAY_NS)
    found = {key: round(value * 1e9) for key, value in budgets(tmp_path, DAY_NS).items()}
    assert found == {
        ("usd", "day"): 2_000_000,
        ("usd", "month"): 50_000_000,
        ("spent_usd", "day"): 62_000,
        ("spent_usd", "month"): 62_000,
        ("reserved_usd", "day"): 200_000,
        ("reserved_usd", "month"): 200_000,
    }


def test_a_budget_begins_anew_with_its_window(ledger, tmp_path):
    ledger.settle([settlement(admit(ledger, ACME, DAY_NS), ACME)], DAY_NS)
    next_day, next_month = budgets(tmp_path, DAY_NS + NS_PER_DAY), budgets(tmp_path, DAY_NS + 31 * NS_PER_DAY)
    assert (next_day["spent_usd", "day"], next_day["spent_usd", "month"] > 0) == (0, True)
    assert next_month["spent_usd", "month"] == 0


def test_counters_never_go_down_and_add_up_to_the_totals(ledger, tmp_path):
    rng, before = random.Random(20), {}
    for step in range(200):
        row = rng.choice((ACME, STRANGER, STRANGER._replace(tenant="another")))
        now_ns = DAY_NS + step * NS_PER_DAY // 20
        (((recorded,),)) = ledger.record([[row._replace(code=rng.choice(("", "", "unknown_task")))]], now_ns)
        if not recorded.code:
            end = rng.choice(("settle", "reject", "cancel", "late"))
            if end == "reject":
                ledger.reject([rejection(recorded.ledger_id, "schema_invalid", row)], now_ns)
            if end in ("cancel", "late"):
                ledger.close_unanswered(now_ns + 1, max_open_s=0)
            if end in ("settle", "late"):
                ledger.settle([settlement(recorded.ledger_id, row)], now_ns + 2)
        found = samples(tmp_path, "acme", "another")
        counters = {key: value for key, value in found.items() if key[0] in COUNTERS}
        assert all(value >= before.get(key, 0) for key, value in counters.items())
        before = counters
    cost = sum(value for key, value in before.items() if key[0] == "llm_tenant_cost_usd_total")
    assert round(cost * 1e9) == round(found["llm_cost_usd_total",] * 1e9) > 0
    refused = sum(value for key, value in before.items() if key[:2] == ("llm_tenant_requests_total", "refused"))
    assert refused == sum(value for key, value in found.items() if key[0] == "llm_requests_rejected_total") > 0
