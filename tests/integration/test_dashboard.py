"""A live server exports the metrics of Triton that the dashboard uses."""

import httpx

from llmstack.dashboard.panels import expressions


def test_triton_exports_its_request_counters(server):
    page = httpx.get(server.metrics_url).text
    names = {"nv_inference_request_success", "nv_inference_request_failure"}
    assert all(name in page for name in names)
    assert all(any(name in expression for expression in expressions()) for name in names)
