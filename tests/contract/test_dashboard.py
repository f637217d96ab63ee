"""The committed dashboard is current, and uses only metrics that are exported."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from llm_policy.ledger.budget_alert import WARNING_PERCENT
from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.row_record import RowRecord
from llm_policy.metrics.exposition import exposition
from llm_policy.metrics.policy_metrics import PolicyMetrics
from llm_policy.release.manifest import Thresholds
from llmstack.cli.dashboard import DEFAULT_OUTPUT
from llmstack.dashboard.panels import BUDGET_WARNING_PERCENT, QUEUE_DELAY_LIMIT_US, ROWS, expressions

# Gauges of the parent process and metrics of Triton; tests/integration looks for them on a live server.
PARENT_METRICS = {
    "llm_ready",
    "llm_delivery_backlog",
    "llm_delivery_oldest_age_seconds",
    "llm_delivery_failed",
    "llm_delivery_disabled",
}
TRITON_METRICS = {
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
}
NAME = re.compile(r"\b(?:llm|nv)_[a-z0-9_]+")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The names of all samples that the policy exports."""
    state = tmp_path_factory.mktemp("state")
    open_database(state / FILE_NAME).close()
    metrics = PolicyMetrics(state)
    metrics.observe_answer(RowRecord(num_completion_tokens=4))
    metrics.guide_compile_ms.observe(1)
    metrics.guide_mask_ms.observe(1)
    for step in metrics.overhead_us.values():
        step.observe(1)
    return set(NAME.findall(exposition(state, ["acme"]).decode()))


def test_every_metric_on_the_dashboard_is_exported(exported):
    used = {name for expression in expressions() for name in NAME.findall(expression)}
    assert used - exported - PARENT_METRICS - TRITON_METRICS == set()


@pytest.mark.parametrize(
    "metric",
    [
        *("llm_ready", "llm_queue_delay_us", "llm_tokens_in_total", "llm_tokens_out_total", "llm_cost_usd_total"),
        *("llm_tenant_cost_usd_total", "llm_tenant_tokens_total", "llm_tenant_budget_reserved_usd"),
        *("llm_requests_rejected_total", "llm_alerts_total", "llm_guide_cache_total"),
    ],
)
def test_the_dashboard_has_a_panel_for(metric):
    assert any(metric in expression for expression in expressions())


def test_the_queue_delay_limit_is_the_manifests_default():
    assert Thresholds().max_queue_delay_us == QUEUE_DELAY_LIMIT_US


def test_the_line_of_budgets_is_where_the_event_is_sent():
    assert BUDGET_WARNING_PERCENT == WARNING_PERCENT


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the SDK needs Python 3.11")
def test_the_committed_dashboard_is_current():
    from llmstack.dashboard.grafana import dashboard_json

    assert DEFAULT_OUTPUT.read_text(encoding="utf-8") == dashboard_json()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_accepts_every_expression(tmp_path):
    rules = [
        {"record": f"dashboard:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_panel_has_a_unique_title_and_a_query():
    panels = [panel for row in ROWS.values() for panel in row]
    assert len({panel.title for panel in panels}) == len(panels)
    assert all(panel.queries for panel in panels)
