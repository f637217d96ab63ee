"""Triton's spans reach an OpenTelemetry collector, within the client's trace."""

import secrets
from collections.abc import Callable

import pytest

from tests.integration.client import Client
from tests.integration.live_service import LiveService, wait_until
from tests.integration.trace_collector import TraceCollector

PARENT_ID = "00f067aa0ba902b7"
NAMES = {"InferRequest", "ensemble", "preprocess", "tensorrt_llm", "postprocess"}


def send_http(live: LiveService, headers: dict[str, str]) -> None:
    assert live.send_request(headers=headers).status == 200


def send_grpc(live: LiveService, headers: dict[str, str]) -> None:
    answer = Client(live, "grpc").send({"text_input": "hello", "max_tokens": 4}, headers)
    assert answer["num_output_tokens"] == 4


@pytest.mark.parametrize("send", [send_http, pytest.param(send_grpc, marks=pytest.mark.slow)])
def test_a_requests_spans_reach_the_collector_within_its_trace(
    echo_service: LiveService, trace_collector: TraceCollector, send: Callable[[LiveService, dict[str, str]], None]
) -> None:
    trace_ids: list[str] = []

    def traced() -> list[str]:
        return [each for each in trace_ids if {span["name"] for span in trace_collector.spans(each)} >= NAMES]

    def is_traced_after_one_more_request() -> bool:
        trace_ids.append(secrets.token_hex(16))
        send(echo_service, {"traceparent": f"00-{trace_ids[-1]}-{PARENT_ID}-01"})
        return traced() != []

    # Several requests, because Triton loses the spans of about one in a hundred.
    wait_until(is_traced_after_one_more_request)
    trace_id = traced()[0]
    spans = trace_collector.spans(trace_id)
    assert [span["name"] for span in spans if span.get("parentSpanId") == PARENT_ID] == ["InferRequest"]
    wait_until(lambda: f'"trace_id":"{trace_id}"' in echo_service.log_path.read_text())
