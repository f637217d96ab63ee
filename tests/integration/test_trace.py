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


@pytest.mark.parametrize("send", [send_http, send_grpc])
def test_a_requests_spans_reach_the_collector_within_its_trace(
    echo_service: LiveService, trace_collector: TraceCollector, send: Callable[[LiveService, dict[str, str]], None]
) -> None:
    trace_id = secrets.token_hex(16)
    send(echo_service, {"traceparent": f"00-{trace_id}-{PARENT_ID}-01"})
    wait_until(lambda: {span["name"] for span in trace_collector.spans(trace_id)} >= NAMES)
    spans = trace_collector.spans(trace_id)
    assert [span["name"] for span in spans if span.get("parentSpanId") == PARENT_ID] == ["InferRequest"]
    assert f'"trace_id":"{trace_id}"' in echo_service.log_path.read_text()
