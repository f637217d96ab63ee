"""The OpenAI API behind a real HAProxy: answers and streams by the official SDK, and what the gateway refuses."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from llmstack.dashboard.panels import expressions
from llmstack.gateway.backend import Address, Backend
from llmstack.gateway.configuration import Limits
from tests.docker.conftest import require_programs
from tests.docker.running_gateway import RunningGateway, free_ports
from tests.docker.test_attacks import head, send_raw
from tests.integration.live_service import HOST, LiveService, wait_until

pytestmark = pytest.mark.slow

MESSAGES: list[Any] = [{"role": "user", "content": "Ada Lovelace placed order ORD-4711."}]
CHAT_PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    require_programs("haproxy", "openssl")
    with LiveService(tmp_path_factory.mktemp("service"), "embedded", serves_openai=True) as service:
        url = f"http://{HOST}:{service.openai_port}/healthz"
        wait_until(lambda: is_answering(url), 60, service.output)
        yield service


@pytest.fixture(scope="module")
def gateway(live: LiveService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with gateway_of(live, tmp_path_factory.mktemp("gateway")) as running:
        yield running


@contextmanager
def gateway_of(live: LiveService, directory: Path, **settings: Any) -> Iterator[RunningGateway]:
    backend = Backend(HOST, live.http_port, live.grpc_port, live.ready_port, live.openai_port)
    with RunningGateway(directory, [backend], ready_path="/readyz", **settings) as running:
        yield running


def is_answering(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def sdk(gateway: RunningGateway, live: LiveService, **options: Any) -> Iterator[openai.OpenAI]:
    """The official SDK, which sends headers of its own."""
    with (
        openai.DefaultHttpxClient(verify=gateway.tls(), timeout=60) as http_client,
        openai.OpenAI(
            base_url=f"{gateway.http_url}/v1",
            api_key="none",
            default_headers={**live.headers, "X-Tenant": "acme"},
            http_client=http_client,
            **{"max_retries": 0, **options},
        ) as client,
    ):
        yield client


def request(gateway: RunningGateway, method: str, path: str, **arguments: Any) -> httpx.Response:
    return httpx.request(method, gateway.http_url + path, verify=gateway.tls(), timeout=60, **arguments)


def check_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of an answer in OpenAI's form."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error


@pytest.mark.parametrize("size", [1, 20_000])
def test_a_chat_is_answered_whole_and_in_chunks(gateway: RunningGateway, live: LiveService, size: int) -> None:
    chat: Any = {"messages": MESSAGES, "max_tokens": 24, "metadata": {"text": "a" * size}}
    with sdk(gateway, live) as client:
        model = client.models.list().data[0].id
        raw = client.chat.completions.with_raw_response.create(
            model=model, extra_headers={"X-Request-Id": "chat-7"}, **chat
        )
        whole = raw.parse()
        chunks = list(client.chat.completions.create(model=model, stream=True, **chat))
    assert raw.headers["x-request-id"] == "chat-7"
    assert raw.headers["x-llmstack-engine-hash"] == live.headers["X-Engine-Hash"]
    assert len(chunks) > 2
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content


def test_chunks_arrive_while_the_engine_works(gateway: RunningGateway, live: LiveService) -> None:
    more: Any = {"max_tokens": 2_000, "extra_body": {"min_tokens": 2_000}}
    with sdk(gateway, live) as client:
        stream = client.chat.completions.create(model="ensemble", messages=MESSAGES, stream=True, **more)
        for _ in range(5):
            next(stream)
        wait_until(lambda: num_running(live) >= 1, 20, live.output)  # /readyz knows it within a second
        stream.close()
        wait_until(lambda: num_running(live) == 0, 20, live.output)


def test_the_dashboards_metrics_count_the_requests(gateway: RunningGateway, live: LiveService) -> None:
    labels = {"proxy": "openai", "code": "2xx"}
    before = gateway.metric("haproxy_backend_http_responses_total", **labels)
    with sdk(gateway, live) as client:
        client.models.list()
    # HAProxy counts a request after its answer.
    gateway.wait_until(lambda: gateway.metric("haproxy_backend_http_responses_total", **labels) == before + 1, 10)
    named = set(re.findall(r"(haproxy_\w+)\{proxy=\"openai\"\}", "\n".join(expressions())))
    exported = set(re.findall(r'^(haproxy_\w+)\{proxy="openai"', gateway.metrics(), re.MULTILINE))
    assert len(named) == 4
    assert named - exported == set()


def num_running(live: LiveService) -> int:
    return int(live.readiness()["engine_process"]["running"])


def test_completions_and_models_are_answered(gateway: RunningGateway, live: LiveService) -> None:
    with sdk(gateway, live) as client:
        assert client.completions.create(model="ensemble", prompt="The order", max_tokens=4).choices[0].text
        model = client.models.list().data[0].id
        assert client.models.retrieve(f"{model}:judge").id == f"{model}:judge"


def test_an_error_of_the_policy_is_returned_unchanged(gateway: RunningGateway) -> None:
    answer = request(gateway, "POST", CHAT_PATH, json={"model": "ensemble", "messages": MESSAGES})
    assert "default_headers" in check_error(answer, 400, "missing_header")["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models/ensemble"),
        ("GET", "/v1/models/a%00"),
        ("POST", "/v1/completions?x=1"),
        ("GET", "/v1/models?x=1"),
        ("POST", "/v1/usage"),
        ("GET", "/v1/usage/a"),
        ("GET", "/v1/usage?a=/b"),
    ],
)
def test_every_other_path_is_refused_in_openais_form(gateway: RunningGateway, method: str, path: str) -> None:
    answer = request(gateway, method, path, content=b"{}" if method == "POST" else None)
    check_error(answer, 404, "not_found")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json", "/v1"])
def test_other_paths_of_the_front_end_are_refused(gateway: RunningGateway, path: str) -> None:
    assert request(gateway, "GET", path).status_code == 404


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested more than 100 levels"),
        (b'{"model":"a","mod\\u0065l":"b"}', "twice"),
        (b'{"seed":' + b"9" * 100 + b"}", "number is too long"),
    ],
    ids=["deep", "twice", "long number"],
)
def test_a_body_that_no_server_may_read_is_refused_in_openais_form(
    gateway: RunningGateway, body: bytes, reason: str, size: int
) -> None:
    answer = request(gateway, "POST", CHAT_PATH, content=b" " * size + body)
    error = check_error(answer, 400, "invalid_request")
    assert reason in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_body_that_is_too_large_is_refused_in_openais_form(gateway: RunningGateway) -> None:
    lines = (f"content-length: {Limits().max_request_bytes + 1}", "connection: close")
    answer = send_raw(gateway, head(f"POST {CHAT_PATH} HTTP/1.1", *lines))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_body_that_stops_is_answered_in_openais_form_or_closed(live: LiveService, tmp_path: Path, size: int) -> None:
    with gateway_of(live, tmp_path, limits=Limits(max_body_s=1)) as gateway:
        lines = (f"content-length: {size}", "connection: close")
        answer = send_raw(gateway, head(f"POST {CHAT_PATH} HTTP/1.1", *lines, body=b'{"a":'), seconds=20)
    if size == 10:
        assert answer.startswith(b"HTTP/1.1 408 ")
    if answer:
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_slow"


def test_too_many_requests_are_rate_limit_errors_that_say_when_to_retry(live: LiveService, tmp_path: Path) -> None:
    with gateway_of(live, tmp_path, limits=Limits(max_client_requests_per_10_s=5)) as gateway:
        with sdk(gateway, live) as client, pytest.raises(openai.RateLimitError) as caught:
            for _ in range(10):
                client.models.list()
        assert caught.value.code == "too_many_requests"
        assert caught.value.response.headers["retry-after"] == "5"


def test_an_open_stream_is_a_request_in_flight(live: LiveService, tmp_path: Path) -> None:
    more: Any = {"messages": MESSAGES, "max_tokens": 2_000, "extra_body": {"min_tokens": 2_000}}
    with (
        gateway_of(live, tmp_path, limits=Limits(max_client_in_flight=1)) as gateway,
        sdk(gateway, live) as client,
        client.chat.completions.create(model="ensemble", stream=True, **more) as stream,
    ):
        next(stream)
        with pytest.raises(openai.RateLimitError, match="at most 1 requests") as caught:
            client.completions.create(model="ensemble", prompt="a", max_tokens=1)
        assert caught.value.response.headers["retry-after"] == "1"
        assert client.models.list().data


def test_without_a_server_the_answer_says_when_to_retry(live: LiveService, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with gateway_of(live, tmp_path, openai_servers=[Address(HOST, port)]) as gateway:
        gateway.wait_until(lambda: gateway.metric("haproxy_backend_active_servers", proxy="openai") == 0)
        for content in (b"{}", b" " * 20_000 + b"{}"):
            answer = request(gateway, "POST", CHAT_PATH, content=content)
            assert check_error(answer, 503, "server_unavailable")["type"] == "server_error"
            assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "true")
        assert request(gateway, "GET", "/v2/health/ready").status_code == 200


def test_servers_of_the_api_elsewhere_are_checked_and_used(live: LiveService, tmp_path: Path) -> None:
    with gateway_of(live, tmp_path, openai_servers=[Address(HOST, live.openai_port)]) as gateway:
        gateway.wait_until(lambda: gateway.metric("haproxy_backend_active_servers", proxy="openai") == 1)
        with sdk(gateway, live) as client:
            assert client.models.list().data


@contextmanager
def header_server() -> Iterator[tuple[int, list[Message]]]:
    """A server that is always ready; its port, and the headers of each POST that it received."""
    received: list[Message] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("x-llmstack-ignored", self.path)
            self.end_headers()

        def do_POST(self) -> None:
            received.append(self.headers)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("x-llmstack-ignored", "yes")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """The test prints nothing."""

    with ThreadingHTTPServer((HOST, 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], received
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("path", ["/v1/usage", "/v1/usage?", "/v1/usage?by=day&since=2026-11-01&tenant=a%20b"])
def test_the_query_for_usage_reaches_the_front_end(tmp_path: Path, path: str) -> None:
    require_programs("haproxy", "openssl")
    with (
        header_server() as (port, _),
        RunningGateway(tmp_path, [Backend(HOST, *[port] * 4)], ready_path="/") as gateway,
    ):
        answer = request(gateway, "GET", path)
    assert (answer.status_code, answer.headers["x-llmstack-ignored"]) == (200, path)


def test_only_headers_that_the_front_end_needs_reach_it(tmp_path: Path) -> None:
    require_programs("haproxy", "openssl")
    sent = {
        "X-Engine-Hash": "a",
        "X-Quantisation": "b",
        "X-Tenant": "c",
        "X-Request-Id": "d",
        "traceparent": "e",
        "Authorization": "Bearer f",
        "X-Api-Key": "g",
        "Content-Type": "application/json",
        "User-Agent": "h",
    }
    deleted = {"X-Stainless-Lang": "python", "X-Canary-Token": "x", "Cookie": "a=b", "X-Forwarded-For": "1.1.1.1"}
    deleted |= {"Inference-Header-Content-Length": "2", "Accept-Encoding": "gzip", "X-Llmstack-Admin-Key": "x"}
    with header_server() as (port, received):
        backend = Backend(HOST, port, port, port, port)
        with RunningGateway(tmp_path, [backend], ready_path="/") as gateway:
            answer = request(gateway, "POST", CHAT_PATH, content=b"{}", headers=sent | deleted)
            assert answer.status_code == 200
            assert answer.headers["x-llmstack-ignored"] == "yes"
            request(gateway, "POST", "/v2/models/ensemble/generate", content=b"{}", headers=sent | deleted)
    openai_headers, triton_headers = received
    assert {name: openai_headers[name] for name in sent} == sent
    assert not [name for name in deleted if name in openai_headers]
    assert {name: triton_headers[name] for name in ("Authorization", "X-Api-Key")} == {
        name: sent[name] for name in ("Authorization", "X-Api-Key")
    }
