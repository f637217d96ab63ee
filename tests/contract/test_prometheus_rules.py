"""The Prometheus rules are valid, pass their promtool tests, and use only metrics that exist."""

import re
import shutil
import subprocess

import pytest

from tests.import_graph import ROOT

PROMETHEUS = ROOT / "docker" / "prometheus"
RULES = sorted(PROMETHEUS.glob("*.rules.yml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
RULE_TEXT = "\n".join(path.read_text() for path in RULES)
TEST_TEXT = "\n".join(path.read_text() for path in TESTS)

HISTOGRAMS = {
    "llm_queue_delay_us",
    "llm_time_to_first_token_us",
    "llm_time_per_output_token_us",
    "llm_inter_token_latency_us",
    "llm_guide_compile_ms",
    "llm_guide_mask_ms",
    "llm_policy_overhead_us",
}
COUNTERS_AND_GAUGES = {
    "llm_tokens_in_total",
    "llm_tokens_out_total",
    "llm_cost_usd_total",
    "llm_requests_total",
    "llm_requests_rejected_total",
    "llm_guide_cache_total",
    "llm_schema_violations_total",
    "llm_alerts_total",
    "llm_ready",
    "llm_metrics_part_up",
    "llm_delivery_backlog",
    "llm_delivery_failed",
    "llm_delivery_disabled",
    "llm_ledger_size_bytes",
    "llm_ledger_budget_bytes",
    "llm_tenant_budget_usd",
    "llm_tenant_budget_spent_usd",
}
# Matches metrics, and neither recorded names, which have colons, nor names of groups.
METRIC = re.compile(r"(?<![\w:])llm_\w+(?=[\[{ ])")

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: apt-get install prometheus"
)


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_configuration_is_valid():
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


@needs_promtool
@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_the_rules_are_valid(path):
    promtool("check", "rules", "--lint-fatal", path)


@needs_promtool
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_the_rules_pass_their_promtool_tests(path):
    promtool("test", "rules", path)


def test_every_rule_file_is_in_the_configuration():
    configured = re.findall(r"^  - (\S+\.yml)$", (PROMETHEUS / "prometheus.yml").read_text(), re.MULTILINE)
    assert sorted(configured) == [path.name for path in RULES]


def test_every_rule_uses_metrics_that_exist():
    expressions = [line for line in RULE_TEXT.splitlines() if not line.lstrip().startswith(("#", "- name", "summary"))]
    used = set(METRIC.findall("\n".join(expressions)))
    assert used == COUNTERS_AND_GAUGES | {f"{name}_bucket" for name in HISTOGRAMS}


def test_every_rule_is_tested():
    alerts = re.findall(r"- alert: (\w+)", RULE_TEXT)
    recorded = re.findall(r"- record: (\S+)", RULE_TEXT)
    assert len(alerts) > 5
    assert [name for name in alerts if f"alertname: {name}" not in TEST_TEXT] == []
    assert [name for name in recorded if name not in TEST_TEXT] == []
