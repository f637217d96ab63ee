"""Triton's spans reach an OpenTelemetry collector, within the client's trace."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client import Client
from tests.integration.live_service import LiveService, wait_until
from tests.soak import ONLY_IN_SOAK

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

pytestmark = pytest.mark.server


class Collector:
    """An OpenTelemetry collector that keeps what is posted as OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def spans(self) -> list[dict[str, Any]]:
        """All spans received so far."""
        return [
            span
            for body in self.bodies
            for resource in json.loads(body)["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    listening = Collector()
    yield listening
    listening.close()


def send_http(live: LiveService, headers: dict[str, str]) -> None:
    assert live.send_request(headers=headers).status == 200


def send_grpc(live: LiveService, headers: dict[str, str]) -> None:
    answer = Client(live, "grpc").send({"text_input": "hello", "max_tokens": 4}, headers)
    assert answer["num_output_tokens"] == 4


@pytest.mark.parametrize("send", [pytest.param(send_http, marks=ONLY_IN_SOAK), send_grpc])
def test_a_requests_spans_reach_the_collector_within_its_trace(
    tmp_path: Path, collector: Collector, send: Callable[[LiveService, dict[str, str]], None]
) -> None:
    with LiveService(tmp_path, environment={"LLMSTACK_TRACE_URL": collector.url}) as live:
        send(live, {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"})
        wait_until(lambda: any(TRACE_ID.encode() in body for body in collector.bodies), 60)
        assert f'"trace_id":"{TRACE_ID}"' in live.log_path.read_text()
    spans = [span for span in collector.spans() if span["traceId"] == TRACE_ID]
    assert {span["name"] for span in spans} >= {"InferRequest", "ensemble", "preprocess", "tensorrt_llm", "postprocess"}
    assert [span["name"] for span in spans if span.get("parentSpanId") == PARENT_ID] == ["InferRequest"]
