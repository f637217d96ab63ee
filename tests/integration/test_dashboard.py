"""Triton's own metrics that the dashboard shows are there on a live server."""

import httpx

from llmstack.dashboard.panels import expressions


def test_tritons_request_counters_are_exported(echo_server):
    page = httpx.get(echo_server.metrics_url).text
    names = {"nv_inference_request_success", "nv_inference_request_failure"}
    assert all(name in page for name in names)
    assert all(any(name in expression for expression in expressions()) for name in names)
