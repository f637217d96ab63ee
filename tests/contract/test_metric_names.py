"""Prometheus rules and documentation name exactly the exported metrics."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm_policy.ledger.tenant import TenantLimits
from llm_policy.metrics.exposition import exposition_parts
from llm_policy.metrics.policy_metrics import PolicyMetrics
from llmstack.events.backlog import Backlog
from llmstack.supervision.metrics_page import MetricsPage
from tests.contract.test_prometheus_rules import COUNTERS_AND_GAUGES, HISTOGRAMS, METRIC, RULE_TEXT
from tests.import_graph import ROOT
from tests.ledgers import open_ledger
from tests.tenants import add_tenant

DOCUMENTED = re.compile(r"^\| `(llm_\w+)(?:\{(.*?)\})?` \| (\w+) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Our metric families on the page of a new server, by their name in Prometheus."""
    state_dir = tmp_path_factory.mktemp("state")
    ledger = open_ledger(state_dir)
    add_tenant(ledger.connection, "acme", TenantLimits(max_nano_usd_per_day=1))
    ledger.connection.close()
    PolicyMetrics(state_dir)
    backlogs = [Backlog("readiness", True, "", 0, 0.0, "")]
    page = MetricsPage(
        lambda: "http://127.0.0.1:9/metrics", exposition_parts(state_dir, ["acme"]), lambda: True, lambda: backlogs
    )
    found = text_string_to_metric_families(page.make().body.decode())
    return {f"{family.name}_total" if family.type == "counter" else family.name: family for family in found}


def test_every_metric_of_the_prometheus_rules_is_exported(families):
    named = {name.removesuffix("_bucket") for name in METRIC.findall(RULE_TEXT)}
    assert named
    assert named - set(families) == set()


def test_every_expected_metric_is_exported_with_its_type(families):
    assert {name for name, family in families.items() if family.type == "histogram"} == HISTOGRAMS
    assert set(families) >= COUNTERS_AND_GAUGES


def test_the_documentation_lists_every_metric_with_its_labels_and_type(families):
    documented = {
        name: (labels, kind) for name, labels, kind in DOCUMENTED.findall((ROOT / "docs/metrics.md").read_text())
    }
    exported = {
        name: (", ".join(sorted({label for sample in family.samples for label in sample.labels} - {"le"})), family.type)
        for name, family in families.items()
    }
    assert documented == exported


def test_no_label_holds_client_text(families):
    """Labels are closed sets, so request ids and tenants that the operator does not name add no series."""
    labels = {label for family in families.values() for sample in family.samples for label in sample.labels}
    by_tenant = {"tenant", "direction", "budget"}
    assert labels == by_tenant | {"le", "step", "task", "outcome", "code", "rule", "result", "endpoint", "part"}
    tenants = {sample.labels.get("tenant") for family in families.values() for sample in family.samples}
    assert tenants == {None, "acme", "other"}
