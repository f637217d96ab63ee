"""Requests that stop Triton or use it up: the gateway refuses them, and an honest client meanwhile gets its answers."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import httpx
import psutil
import pytest
from tritonclient.grpc import service_pb2 as pb

from llmstack.gateway.configuration import Limits
from llmstack.server.process import TritonServer
from tests.docker.body_oracle import refusal
from tests.docker.random_bodies import changed_body, valid_body
from tests.docker.running_gateway import RunningGateway, running_gateway
from tests.docker.test_attacks import BODY, HEADERS, INFER, METADATA, SERVICE, call, channel, infer_request
from tests.soak import IS_SOAK, ONLY_IN_SOAK
from tests.survivors import check_survivors

NUM_ATTEMPTS = 3
NUM_RANDOM_BODIES = 10_000 if IS_SOAK else 400
GENERATE, STREAM = (f"/v2/models/ensemble/{name}" for name in ("generate", "generate_stream"))
BRACKETS = b"[" * 130_000
DEEP = b'{"a":' + BRACKETS
TEXT, LIMIT = BODY["inputs"]
PROMPT = {"text_input": "hello", "max_tokens": 4, **HEADERS}
WRAPPED = 2**32 + 4


class Refusal(NamedTuple):
    """A status and a text of an answer."""

    status: int | grpc.StatusCode
    text: str


def post(url: str, path: str, body: bytes | dict[str, Any], verify: Any = True, **headers: str) -> Refusal:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(url + path, content=content, headers=HEADERS | headers, verify=verify, timeout=30)
    return Refusal(answer.status_code, answer.text)


class HttpRequest(NamedTuple):
    """A POST that the gateway refuses with status 400, a code and a text. `header` is one more header."""

    path: str
    body: bytes | dict[str, Any]
    text: str
    code: str = "invalid_request"
    header: tuple[str, str] = ("accept", "*/*")

    def send(self, gateway: RunningGateway) -> Refusal:
        return post(gateway.http_url, self.path, self.body, gateway.tls(), **dict([self.header]))

    def is_refused(self, refusal: Refusal) -> bool:
        error = json.loads(refusal.text)["error"]
        return refusal.status == 400 and error.startswith(f"{self.code}: ") and self.text in error


class GrpcCall(NamedTuple):
    """A unary call, or a stream of three, that the gateway refuses with INVALID_ARGUMENT or PERMISSION_DENIED."""

    change: Callable[[pb.ModelInferRequest], object]
    text: str
    is_stream: bool = False
    metadata: tuple[tuple[str, str], ...] = METADATA

    def send(self, gateway: RunningGateway) -> Refusal:
        request = infer_request()
        self.change(request)
        try:
            if self.is_stream:
                send_stream(channel(gateway), request, self.metadata)
            else:
                call(gateway, "ModelInfer", request.SerializeToString(), self.metadata)
        except grpc.RpcError as error:
            return Refusal(error.code(), error.details())
        return Refusal(grpc.StatusCode.OK, "")

    def is_refused(self, refusal: Refusal) -> bool:
        codes = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED)
        return refusal.status in codes and f"gateway: {self.text}" in refusal.text


def send_stream(opened: grpc.Channel, request: pb.ModelInferRequest, metadata: tuple[tuple[str, str], ...]) -> None:
    with opened:
        messages = iter([request.SerializeToString()] * 3)
        list(opened.stream_stream(SERVICE + "ModelStreamInfer")(messages, metadata=metadata, timeout=20))


def infer(*inputs: object, **members: object) -> dict[str, Any]:
    return {"inputs": [TEXT, *inputs], **members}


def classify(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="text_output").parameters["classification"].int64_param = 5


def no_change(request: pb.ModelInferRequest) -> None:
    """Leave the request as it is."""


TRITONS_OWN = (("triton_grpc_error", "true"),)
PARAMETERS = {f"p{number}": number for number in range(100_000)}
COMPRESSED = gzip.compress(b" " * 50_000_000)
REQUESTS: dict[str, HttpRequest | GrpcCall] = {
    "deep JSON to infer": HttpRequest(INFER, DEEP, "member a is not allowed"),
    "deep JSON in the data": HttpRequest(INFER, b'{"inputs":[{"data":' + BRACKETS, "the body is nested"),
    "deep JSON to generate": HttpRequest(GENERATE, DEEP, "member a is not allowed"),
    "deep JSON in a tensor of a stream": HttpRequest(
        STREAM, b'{"text_input":' + BRACKETS, "the body is nested"
    ),
    "the classification of a text": HttpRequest(
        INFER,
        infer(outputs=[{"name": "text_output", "parameters": {"classification": 5}}]),
        "member classification is not allowed",
    ),
    "class_count over gRPC": GrpcCall(classify, "field tag 18 is not allowed"),
    "the error mode of streams": GrpcCall(no_change, "metadata that begins with triton_", True, TRITONS_OWN),
    "the error mode of streams, with headers": GrpcCall(
        no_change, "metadata that begins with triton_", True, METADATA + TRITONS_OWN
    ),
    "the largest shape": HttpRequest(
        INFER, infer({**LIMIT, "shape": [2**63 - 1, 1]}), "a dimension of a shape is out of range"
    ),
    "a shape of 16 GiB": HttpRequest(
        INFER, infer({**LIMIT, "shape": [2**32 + 1, 1]}), "a dimension of a shape is out of range"
    ),
    "100,000 parameters": HttpRequest(INFER, infer(parameters=PARAMETERS), "member p0 is not allowed"),
    "100,000 members of generate": HttpRequest(GENERATE, PROMPT | PARAMETERS, "member p0 is not allowed"),
    "a compressed body": HttpRequest(INFER, COMPRESSED, "", "compressed", ("content-encoding", "gzip")),
    "an output of the engine alone": HttpRequest(
        INFER, infer(outputs=[{"name": "num_output_tokens"}]), "the outputs that are asked for"
    ),
    "an output of the engine alone over gRPC": GrpcCall(
        lambda request: request.outputs.add(name="num_output_tokens"), "the outputs that are asked for"
    ),
    "a number that wraps": HttpRequest(
        INFER, infer({**LIMIT, "data": [WRAPPED]}), "a value of max_tokens is out of the range of INT32"
    ),
    "a number that wraps in generate": HttpRequest(
        GENERATE, PROMPT | {"max_tokens": WRAPPED}, "a value of max_tokens is out of the range of INT32"
    ),
    "a null character in the tenant": HttpRequest(
        GENERATE, PROMPT | {"X-Tenant": "a\0b"}, "x-tenant has a null character"
    ),
    "headers among the parameters": HttpRequest(
        INFER, infer(parameters={"X-Tenant": "b"}), "send x-tenant as a header"
    ),
    "headers among the parameters over gRPC": GrpcCall(
        lambda request: setattr(request.parameters["x-tenant"], "string_param", "b"), "send x-tenant as metadata"
    ),
    "a sequence": HttpRequest(
        INFER, infer(parameters={"sequence_id": 5}), "member sequence_id is not allowed"
    ),
    "a sequence over gRPC": GrpcCall(
        lambda request: setattr(request.parameters["sequence_id"], "int64_param", 5), "a parameter is not allowed"
    ),
    "shared memory": HttpRequest(
        INFER,
        infer({**LIMIT, "parameters": {"shared_memory_region": "x"}}),
        "member shared_memory_region is not allowed",
    ),
    "a length of JSON beyond the body": HttpRequest(
        INFER, infer(), "not the length of a part of the body", header=("inference-header-content-length", "4294967300")
    ),
    "a length of JSON that is no number": HttpRequest(
        INFER, infer(), "not the length of a part of the body", header=("inference-header-content-length", "0x10")
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def guarded(echo: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway without a limit of requests, so that the honest client and the hostile one may share an address."""
    limits = Limits(max_client_requests_per_10_s=1_000_000)
    with running_gateway(tmp_path_factory.mktemp("guarded"), echo, limits=limits) as gateway:
        yield gateway


@contextlib.contextmanager
def honest_client(gateway: RunningGateway) -> Iterator[None]:
    """Sends valid requests, over HTTP and gRPC in turn, until the block ends; fails unless every one was answered."""
    message, is_stopping, num_answers = infer_request().SerializeToString(), threading.Event(), 0
    failures: list[Exception] = []

    def run() -> None:
        nonlocal num_answers
        with httpx.Client(verify=gateway.tls(), timeout=30, headers=HEADERS) as client, channel(gateway) as opened:
            stub = opened.unary_unary(SERVICE + "ModelInfer")
            while not is_stopping.is_set() or num_answers < 4:
                try:
                    client.post(gateway.http_url + INFER, json=BODY).raise_for_status()
                    client.post(gateway.http_url + GENERATE, json=PROMPT).raise_for_status()
                    stub(message, metadata=METADATA, timeout=30)
                except (httpx.HTTPError, grpc.RpcError) as error:
                    failures.append(error)
                num_answers += 1

    client = threading.Thread(target=run)
    client.start()
    try:
        yield
    finally:
        is_stopping.set()
        client.join()
    assert failures == []


@pytest.mark.parametrize("case", REQUESTS)
def test_the_gateway_refuses_it_and_an_honest_client_gets_every_answer(
    guarded: RunningGateway, echo: TritonServer, case: str
) -> None:
    pid, rejected = echo.pid, guarded.num_rejected()
    with honest_client(guarded):
        answers = [REQUESTS[case].send(guarded) for _ in range(NUM_ATTEMPTS)]
    assert [answer for answer in answers if not REQUESTS[case].is_refused(answer)] == []
    assert guarded.num_rejected() - rejected == NUM_ATTEMPTS
    assert (echo.pid, echo.is_running) == (pid, True)
    assert guarded.num_servers_up() == 1


@pytest.mark.parametrize("value", ["gzip;q=9e999", "gzip;q=abc, deflate;q=", "gzip, deflate"])
def test_accept_encoding_does_not_reach_a_server(guarded: RunningGateway, echo: TritonServer, value: str) -> None:
    answer = httpx.post(
        guarded.http_url + INFER, json=BODY, headers=HEADERS | {"accept-encoding": value}, verify=guarded.tls()
    )
    assert answer.status_code == 200
    assert "content-encoding" not in answer.headers
    assert echo.is_running


def test_unknown_metadata_does_not_reach_a_server(guarded: RunningGateway, echo: TritonServer) -> None:
    metadata: tuple[tuple[str, str | bytes], ...] = (
        *METADATA,
        ("x-canary-token", echo.canary_token),
        ("x-other", "1"),
        ("x-data-bin", b"\0\xff"),
    )
    answer = pb.ModelInferResponse.FromString(
        call(guarded, "ModelInfer", infer_request().SerializeToString(), metadata)
    )
    assert "text_output" in [output.name for output in answer.outputs]


@pytest.mark.parametrize("path", [INFER, GENERATE])
def test_600_000_chunks_are_refused(guarded: RunningGateway, echo: TritonServer, path: str) -> None:
    chunks = (b" " for _ in range(600_000))
    answer = httpx.post(guarded.http_url + path, content=chunks, headers=HEADERS, verify=guarded.tls(), timeout=30)
    assert (answer.status_code, "length_required" in answer.text) == (400, True)
    assert echo.is_running


def test_a_refused_body_larger_than_a_buffer_is_answered(guarded: RunningGateway) -> None:
    body = json.dumps(PROMPT | {"text_input": "x" * 1_000_000, "zzz": 1}).encode()
    refusal = post(guarded.http_url, GENERATE, body, guarded.tls())
    assert refusal == Refusal(400, '{"error":"invalid_request: member zzz is not allowed"}')


def test_a_binary_request_is_answered(guarded: RunningGateway) -> None:
    head = json.dumps({"inputs": [{**TEXT, "parameters": {"binary_data_size": 9}, "data": []}]}).replace(
        ', "data": []', ""
    )
    body, length = head.encode() + b"\5\0\0\0hello", str(len(head))
    answer = post(guarded.http_url, INFER, body, guarded.tls(), **{"inference-header-content-length": length})
    assert answer.status == 200


def test_random_bodies_that_the_guard_allows_do_not_stop_the_server(
    guarded: RunningGateway, echo: TritonServer
) -> None:
    source = random.Random(11)
    num_refused = 0
    with httpx.Client(verify=guarded.tls(), timeout=60) as client:
        for _ in range(NUM_RANDOM_BODIES):
            given = changed_body(source)
            expected = refusal(given.call, given.body, given.json_bytes)
            headers = HEADERS if given.call == "infer" else {}
            if given.json_bytes != len(given.body):
                headers = headers | {"inference-header-content-length": str(given.json_bytes)}
            answer = client.post(
                f"{guarded.http_url}/v2/models/ensemble/{given.call}", content=given.body, headers=headers
            )
            is_refused = answer.text.startswith('{"error":"invalid_request: ')
            assert is_refused == bool(expected), (given, expected, answer.text)
            assert answer.status_code in (200, 400, 500, 503), answer.text
            num_refused += is_refused
    check_survivors(NUM_RANDOM_BODIES - num_refused, NUM_RANDOM_BODIES, 0.1)
    assert echo.is_running
    assert post(guarded.http_url, INFER, BODY, guarded.tls()).status == 200


def test_random_valid_bodies_get_the_same_status_with_and_without_the_gateway(
    guarded: RunningGateway, echo: TritonServer
) -> None:
    source = random.Random(12)
    for _ in range(NUM_RANDOM_BODIES // 4):
        given = valid_body(source)
        if given.call == "infer":
            length = {"inference-header-content-length": str(given.json_bytes)}
            direct, through = (
                post(url, INFER, given.body, tls, **length)
                for url, tls in ((echo.http_url, True), (guarded.http_url, guarded.tls()))
            )
            assert direct.status == through.status, (given, direct, through)


def send_streams_in_error_mode(server: TritonServer) -> None:
    for _ in range(40):
        with contextlib.suppress(grpc.RpcError):
            send_stream(grpc.insecure_channel(server.grpc_url), infer_request(), TRITONS_OWN)


# What the bare server does: each of these stops it, as the table of `llmstack doctor` says.
STOPS: dict[str, Callable[[TritonServer], object]] = {
    "JSON nesting": lambda server: post(server.http_url, INFER, DEEP),
    "classification": lambda server: post(
        server.http_url, INFER, infer(outputs=[{"name": "text_output", "parameters": {"classification": 5}}])
    ),
    "shape": lambda server: post(server.http_url, INFER, infer({**LIMIT, "shape": [2**63 - 1, 1]})),
    "accept-encoding": lambda server: post(server.http_url, INFER, BODY, **{"accept-encoding": "gzip;q=9e999"}),
    "stream errors": send_streams_in_error_mode,
}


@ONLY_IN_SOAK
@pytest.mark.parametrize("case", STOPS)
def test_the_bare_server_is_stopped_by_it(case: str) -> None:
    with TritonServer(engine="echo") as server:
        with contextlib.suppress(httpx.HTTPError, grpc.RpcError):
            STOPS[case](server)
        # A server that is hit by a signal writes a stack trace before it ends.
        assert psutil.wait_procs([psutil.Process(server.pid)], timeout=30)[0]
