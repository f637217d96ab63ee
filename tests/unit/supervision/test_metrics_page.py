"""One page of Prometheus text from all parts that are available."""

import sqlite3
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmstack.events.backlog import Backlog
from llmstack.server.ports import listen
from llmstack.supervision.metrics_page import MetricsPage
from llmstack.supervision.page_server import Page, PageServer

TRITON = b"# TYPE nv_cpu_utilization gauge\nnv_cpu_utilization 7"  # without a line end
POLICY = b"# TYPE llm_cost_usd counter\nllm_cost_usd_total 0.5\n"
BACKLOG = Backlog("readiness", True, "", 3, 12.5, "")
UNREACHABLE = "http://127.0.0.1:1/metrics"


@pytest.fixture
def triton_url() -> Iterator[str]:
    listener = listen("127.0.0.1", "metrics", 0)
    with PageServer(listener, {"/metrics": lambda: Page(TRITON)}, "triton") as server:
        yield f"http://127.0.0.1:{server.port}/metrics"


def samples(page: Page) -> dict[str, float]:
    families = text_string_to_metric_families(page.body.decode())
    return {
        sample.name + "".join(f" {label}" for label in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_all_parts_are_on_one_page(triton_url):
    page = MetricsPage(
        lambda: triton_url, {"ledger": lambda: POLICY, "histograms": bytes}, lambda: True, lambda: [BACKLOG]
    ).make()
    assert samples(page) == {
        "nv_cpu_utilization": 7,
        "llm_cost_usd_total": 0.5,
        "llm_delivery_backlog readiness": 3,
        "llm_delivery_oldest_age_seconds readiness": 12.5,
        "llm_delivery_failed readiness": 0,
        "llm_delivery_disabled readiness": 0,
        "llm_ready": 1,
        "llm_metrics_part_up triton": 1,
        "llm_metrics_part_up ledger": 1,
        "llm_metrics_part_up histograms": 1,
    }


def test_without_triton_the_other_parts_are_on_the_page(triton_url):
    found = samples(
        MetricsPage(
            lambda: UNREACHABLE, {"ledger": lambda: POLICY, "histograms": bytes}, lambda: False, lambda: [BACKLOG]
        ).make()
    )
    assert (found["llm_metrics_part_up triton"], found["llm_metrics_part_up ledger"]) == (0, 1)
    assert (found["llm_cost_usd_total"], found["llm_ready"]) == (0.5, 0)


def test_a_part_that_fails_is_left_out_with_its_reason(triton_url):
    def broken() -> bytes:
        raise sqlite3.OperationalError("unable to open\ndatabase file")

    parts = {"ledger": lambda: POLICY, "histograms": broken}
    page = MetricsPage(lambda: triton_url, parts, lambda: True, list).make()
    found = samples(page)
    assert [found[f"llm_metrics_part_up {part}"] for part in ("triton", "ledger", "histograms")] == [1, 1, 0]
    assert (found["nv_cpu_utilization"], found["llm_cost_usd_total"]) == (7, 0.5)
    assert b"# no histograms metrics: OperationalError: unable to open database file\n" in page.body
