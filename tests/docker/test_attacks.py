"""Attempts to bypass the policy, through a real HAProxy to a real server: only the ensemble can be reached."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb

from llm_policy.release.release import Release
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
from llmstack.dashboard.panels import expressions
from llmstack.gateway.configuration import GET_PATHS
from llmstack.paths import DEFAULT_RELEASE_DIR, PROJECT_ROOT
from llmstack.server.process import TritonServer
from tests.docker.conftest import require_programs
from tests.docker.running_gateway import RunningGateway, running_gateway

ENGINE = Release.open(DEFAULT_RELEASE_DIR).manifest.engine
HEADERS = {ENGINE_HASH: ENGINE.hash, QUANTISATION: ENGINE.quantisation}
METADATA = tuple((name.lower(), value) for name, value in HEADERS.items())
SERVICE = "/inference.GRPCInferenceService/"
INFER = "/v2/models/ensemble/infer"
BODY = {
    "inputs": [
        {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["hello"]},
        {"name": "max_tokens", "shape": [1, 1], "datatype": "INT32", "data": [4]},
    ]
}
Counts = Callable[[], dict[str, int]]
INNER_MODELS = ("tensorrt_llm", "preprocess", "postprocess")


@pytest.fixture
def counts(echo: TritonServer) -> Counts:
    """Reads each model's number of inferences from Triton."""

    def count() -> dict[str, int]:
        answer = httpx.get(f"{echo.http_url}/v2/models/stats").json()
        return {each["name"]: each["inference_count"] for each in answer["model_stats"]}

    return count


def channel(gateway: RunningGateway) -> grpc.Channel:
    certificate = (gateway.directory / "certificate.pem").read_bytes()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    return grpc.secure_channel(gateway.grpc_url, grpc.ssl_channel_credentials(certificate), options)


def infer_request(model: str = "ensemble", text: bytes = b"hello") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model)
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
    return request


def call(
    gateway: RunningGateway, method: str, message: bytes, metadata: tuple[tuple[str, str | bytes], ...] = METADATA
) -> bytes:
    """Make one unary call of raw bytes and return the answer."""
    with channel(gateway) as opened:
        stub = opened.unary_unary(SERVICE + method if "/" not in method else method)
        return bytes(stub(message, metadata=metadata, timeout=20))


def send_raw(gateway: RunningGateway, *pieces: bytes, seconds: float = 5.0) -> bytes:
    """Send raw bytes over TLS and return all that comes back."""
    received = b""
    with gateway.connect(seconds) as connection, suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
        while chunk := connection.recv(65_536):
            received += chunk
    return received


def head(line: str, *lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, "host: localhost", *lines, "", ""]).encode("latin-1") + body


# Allowed requests


def curl(gateway: RunningGateway, *arguments: str) -> str:
    """The output of curl, which supports HTTP/2; httpx needs an extra package for it."""
    require_programs("curl")
    command = ["curl", "-s", "--cacert", str(gateway.directory / "certificate.pem"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_the_ensemble_answers_over_https(gateway: RunningGateway, version: str) -> None:
    headers = [option for name, value in HEADERS.items() for option in ("-H", f"{name}: {value}")]
    answer = json.loads(curl(gateway, version, *headers, "-d", json.dumps(BODY), gateway.http_url + INFER))
    assert {"text_output", "engine_hash"} <= {output["name"] for output in answer["outputs"]}


@pytest.mark.parametrize("path", GET_PATHS)
def test_health_and_readiness_paths_are_allowed(gateway: RunningGateway, path: str) -> None:
    assert httpx.get(gateway.http_url + path, verify=gateway.tls()).status_code == 200


def test_generate_answers_with_the_headers_in_the_body(gateway: RunningGateway) -> None:
    body = {"text_input": "hello", "max_tokens": 4, **HEADERS}
    answer = httpx.post(f"{gateway.http_url}/v2/models/ensemble/generate", json=body, verify=gateway.tls(), timeout=30)
    assert answer.json()["engine_hash"] == ENGINE.hash


def test_an_error_of_the_policy_is_returned_unchanged(gateway: RunningGateway) -> None:
    answer = httpx.post(gateway.http_url + INFER, json=BODY, verify=gateway.tls(), timeout=30)
    assert answer.status_code == 400
    assert "missing_header" in answer.json()["error"]


def test_the_ensemble_answers_over_grpc_with_tls(gateway: RunningGateway) -> None:
    answer = pb.ModelInferResponse.FromString(call(gateway, "ModelInfer", infer_request().SerializeToString()))
    assert "text_output" in [output.name for output in answer.outputs]


def test_a_grpc_stream_answers_each_of_its_messages(gateway: RunningGateway) -> None:
    def messages() -> Iterator[bytes]:
        for number in range(3):
            yield infer_request(text=b"%d" % number).SerializeToString()

    with channel(gateway) as opened:
        stub = opened.stream_stream(SERVICE + "ModelStreamInfer")
        answers = [
            pb.ModelStreamInferResponse.FromString(each) for each in stub(messages(), metadata=METADATA, timeout=30)
        ]
    assert [answer.error_message for answer in answers] == [""] * 3


def test_a_prompt_beyond_the_token_limit_reaches_the_policy(gateway: RunningGateway) -> None:
    text = b"order " * 100_000  # 600 kB: the policy, not the gateway, rejects these as too many tokens
    with pytest.raises(grpc.RpcError, match="token_budget_overrun"):
        call(gateway, "ModelInfer", infer_request(text=text).SerializeToString())


# Rejected requests over HTTP, as raw bytes: an HTTP client would normalise them

POST_JSON = ("content-type: application/json",)
SIZED = (*POST_JSON, "content-length: 2")
OTHER_PATHS = [
    "/v2/models/tensorrt_llm/infer",
    "/v2/models/preprocess/infer",
    "/v2/models/postprocess/generate",
    "/v2/models/ensemble_stream/infer",
    "/v2/models/ensemble_stream/versions/1/generate_stream",
    "/v2/models/ensemble_stream/generate_stream/",
    "/v2/models/ensemble_stream2/generate_stream",
    "/v2/models/ensemble_stream/stats",
    "/v2/models/ensemble_stream/trace/setting",
    "/v2/models/tensorrt_llm/versions/1/infer",
    "/v2/models/ensemble/versions/1/infer",
    "/v2/models/ensemble/../tensorrt_llm/infer",
    "/v2/models/ensemble/infer/../../tensorrt_llm/infer",
    "/v2/models/ensemble%2f..%2ftensorrt_llm/infer",
    "/v2/models/%74ensorrt_llm/infer",
    "/v2/models/%65nsemble/infer",
    "/v2//models/ensemble/infer",
    "/v2/models/ensemble/infer/",
    "/v2/models/Ensemble/infer",
    "/V2/models/ensemble/infer",
    "/v2/models/ensemble/infer?x=1",
    "/v2/models/ensemble/infer#x",
    "/v2/models/ensemble/infer;a=b",
    "/v2/models/ensemble/infer%00",
    "/v2/models/ensemble\\infer",
    "/v2/repository/index",
    "/v2/repository/models/tensorrt_llm/unload",
    "/v2/models/ensemble/trace/setting",
    "/v2/trace/setting",
    "/v2/logging",
    "/v2/systemsharedmemory/region/x/register",
    "/v2/cudasharedmemory/status",
    "/v2/models/ensemble/stats",
    "/v2/models/stats",
    "/metrics",
    "/",
    "*",
    "http://127.0.0.1:8000/v2/models/tensorrt_llm/infer",
    "https://localhost/v2/models/ensemble/infer",
]


@pytest.mark.parametrize("path", OTHER_PATHS)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_every_other_path_is_rejected(gateway: RunningGateway, counts: Counts, method: str, path: str) -> None:
    before, rejected = counts(), gateway.num_rejected()
    lines = SIZED if method == "POST" else ()
    answer = send_raw(
        gateway, head(f"{method} {path} HTTP/1.1", *lines, "connection: close", body=b"{}" if lines else b"")
    )
    assert answer.split(b" ")[1][:1] == b"4"
    assert (counts(), gateway.num_rejected() - rejected) == (before, 1)


# HAProxy resets an HTTP/2 stream whose path has a #, without a response.
@pytest.mark.parametrize("path", [path for path in OTHER_PATHS if path.startswith("/") and "#" not in path])
def test_every_other_path_is_rejected_over_http2(gateway: RunningGateway, counts: Counts, path: str) -> None:
    before, rejected = counts(), gateway.num_rejected()
    # Without a body: curl reports a protocol error when the response arrives before the body is sent.
    options = ["--request-target", path, "-X", "POST", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"]
    assert curl(gateway, "--http2", *options, gateway.http_url) == "2 404"
    assert (counts(), gateway.num_rejected() - rejected) == (before, 1)


def test_metadata_is_exposed_only_with_the_option(gateway: RunningGateway, echo: TritonServer, tmp_path: Path) -> None:
    messages = {
        name: pb.ModelMetadataRequest(name=name).SerializeToString() for name in ("ensemble", "ensemble_stream")
    }
    for name, message in messages.items():
        assert httpx.get(f"{gateway.http_url}/v2/models/{name}", verify=gateway.tls()).status_code == 404
        with pytest.raises(grpc.RpcError, match="this method is not allowed"):
            call(gateway, "ModelMetadata", message)
    with running_gateway(tmp_path, echo, allow_metadata=True) as opened:
        for name, message in messages.items():
            assert httpx.get(f"{opened.http_url}/v2/models/{name}", verify=opened.tls()).json()["name"] == name
            assert pb.ModelMetadataResponse.FromString(call(opened, "ModelMetadata", message)).name == name
        with pytest.raises(grpc.RpcError, match="only the models ensemble"):
            call(opened, "ModelMetadata", pb.ModelMetadataRequest(name="preprocess").SerializeToString())


SMUGGLED = head("POST /v2/models/tensorrt_llm/infer HTTP/1.1", *SIZED, body=b"{}")
BAD_BODIES = {
    "two lengths": head(f"POST {INFER} HTTP/1.1", "content-length: 2", "content-length: 3", body=b"{}" + SMUGGLED),
    "a list of lengths": head(f"POST {INFER} HTTP/1.1", "content-length: 2, 3", body=b"{}" + SMUGGLED),
    "length and chunks": head(
        f"POST {INFER} HTTP/1.1", "content-length: 5", "transfer-encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "chunks alone": head(f"POST {INFER} HTTP/1.1", "transfer-encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"),
    "chunks under an unknown encoding": head(
        f"POST {INFER} HTTP/1.1", "content-length: 5", "transfer-encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "a blank before the colon": head(f"POST {INFER} HTTP/1.1", "content-length : 2", body=b"{}"),
    "a bare line feed": f"POST {INFER} HTTP/1.1\nhost: localhost\ncontent-length: 2\n\n{{}}".encode() + SMUGGLED,
    "no length": head(f"POST {INFER} HTTP/1.1"),
    "a negative length": head(f"POST {INFER} HTTP/1.1", "content-length: -2"),
    "a body beyond the limit": head(f"POST {INFER} HTTP/1.1", "content-length: 999999999"),
    "a compressed body": head(f"POST {INFER} HTTP/1.1", *SIZED, "content-encoding: gzip", body=b"{}"),
    "a protocol upgrade": head("GET /v2/health/live HTTP/1.1", "connection: upgrade", "upgrade: websocket"),
    "an upgrade to plain HTTP/2": head(
        "GET /v2/health/live HTTP/1.1", "connection: upgrade, http2-settings", "upgrade: h2c"
    ),
    "a tunnel": head("CONNECT 127.0.0.1:8001 HTTP/1.1"),
    "a trace": head("TRACE /v2/models/ensemble HTTP/1.1"),
    "an over-long line": head(f"GET /{'a' * 100_000} HTTP/1.1"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_malformed_request_smuggles_no_other_request(gateway: RunningGateway, counts: Counts, case: str) -> None:
    before, rejected = counts(), gateway.num_rejected()
    answer = send_raw(gateway, BAD_BODIES[case], seconds=2.0)
    assert b" 200 " not in answer.split(b"\r\n")[0]
    after = counts()
    assert {name: after[name] for name in INNER_MODELS} == {name: before[name] for name in INNER_MODELS}
    assert gateway.num_rejected() > rejected


def test_the_administrators_key_does_not_open_the_administrative_apis(
    gateway: RunningGateway, echo: TritonServer
) -> None:
    rejected = gateway.num_rejected()
    answer = httpx.get(
        f"{gateway.http_url}/v2/logging", headers={"x-llmstack-admin-key": echo.admin_key}, verify=gateway.tls()
    )
    assert (answer.status_code, gateway.num_rejected() - rejected) == (404, 1)


# Rejected calls over gRPC

INDEX = pb.RepositoryIndexRequest().SerializeToString()
OTHER_CALLS = {
    "inner model": ("ModelInfer", infer_request("tensorrt_llm").SerializeToString()),
    "one answer of the streaming model": ("ModelInfer", infer_request("ensemble_stream").SerializeToString()),
    "a longer name": ("ModelStreamInfer", infer_request("ensemble_stream2").SerializeToString()),
    "first step": ("ModelInfer", infer_request("preprocess").SerializeToString()),
    "last step": ("ModelInfer", infer_request("postprocess").SerializeToString()),
    "another letter case": ("ModelInfer", infer_request("ENSEMBLE").SerializeToString()),
    "named twice": (
        "ModelInfer",
        infer_request().SerializeToString() + infer_request("tensorrt_llm").SerializeToString(),
    ),
    "a version": ("ModelInfer", pb.ModelInferRequest(model_name="ensemble", model_version="1").SerializeToString()),
    "too long": ("ModelInfer", infer_request(text=b"x" * (5 << 20)).SerializeToString()),
    "inner model's readiness": ("ModelReady", pb.ModelReadyRequest(name="tensorrt_llm").SerializeToString()),
    "inner model's metadata": ("ModelMetadata", pb.ModelMetadataRequest(name="preprocess").SerializeToString()),
    "configuration": ("ModelConfig", pb.ModelConfigRequest(name="ensemble").SerializeToString()),
    "statistics": ("ModelStatistics", pb.ModelStatisticsRequest().SerializeToString()),
    "repository": ("RepositoryIndex", INDEX),
    "loading": ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="ensemble").SerializeToString()),
    "unloading": ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="ensemble").SerializeToString()),
    "shared memory": ("SystemSharedMemoryStatus", pb.SystemSharedMemoryStatusRequest().SerializeToString()),
    "registering memory": (
        "SystemSharedMemoryRegister",
        pb.SystemSharedMemoryRegisterRequest(name="x", key="/x", byte_size=64).SerializeToString(),
    ),
    "tracing": ("TraceSetting", pb.TraceSettingRequest().SerializeToString()),
    "logging": ("LogSettings", pb.LogSettingsRequest().SerializeToString()),
    "the method in lower case": ("modelinfer", infer_request().SerializeToString()),
    "a longer path": (SERVICE + "ModelInfer/", infer_request().SerializeToString()),
    "a doubled slash": ("/" + SERVICE + "ModelInfer", infer_request().SerializeToString()),
    "another service": ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b""),
    "Triton's own health service": ("/grpc.health.v1.Health/Watch", b""),
}
REJECTION_CODES = {
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@pytest.mark.parametrize("case", OTHER_CALLS)
def test_every_other_call_is_rejected_with_a_status_and_a_reason(
    gateway: RunningGateway, counts: Counts, case: str
) -> None:
    before, rejected = counts(), gateway.num_rejected()
    with pytest.raises(grpc.RpcError) as failure:
        call(gateway, *OTHER_CALLS[case])
    assert failure.value.code() in REJECTION_CODES
    assert "gateway:" in failure.value.details()
    assert (counts(), gateway.num_rejected() - rejected) == (before, 1)


def test_a_later_message_to_another_model_ends_the_stream(gateway: RunningGateway, counts: Counts) -> None:
    before, rejected = counts(), gateway.num_rejected()
    num_lines = len(gateway.log())
    is_answered = threading.Event()

    def messages() -> Iterator[bytes]:
        yield infer_request().SerializeToString()
        is_answered.wait(20)
        yield infer_request("tensorrt_llm").SerializeToString()

    with channel(gateway) as opened, pytest.raises(grpc.RpcError) as failure:
        answers = opened.stream_stream(SERVICE + "ModelStreamInfer")(messages(), metadata=METADATA, timeout=20)
        next(answers)
        is_answered.set()
        list(answers)
    # HAProxy can't send a status for a stream that has started: the client sees a reset, the log has the reason.
    assert failure.value.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}
    assert counts()["tensorrt_llm"] - before["tensorrt_llm"] <= 1  # the ensemble's own call
    gateway.wait_until(lambda: len(gateway.log()) > num_lines, 10)
    (line,) = (line for line in gateway.log()[num_lines:] if line["path"].endswith("ModelStreamInfer"))
    assert (line["grpc_status"], line["reason"]) == (
        "7",
        "only the models ensemble and ensemble_stream may be called",
    )
    assert gateway.num_rejected() - rejected == 1


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/grpc-web"])
def test_another_content_type_is_not_grpc(gateway: RunningGateway, content_type: str) -> None:
    url, rejected = f"https://{gateway.grpc_url}{SERVICE}ModelInfer", gateway.num_rejected()
    answer = curl(gateway, "--http2", "-i", "-H", f"content-type: {content_type}", "-d", "", url)
    assert "grpc-status: 7" in answer
    assert gateway.num_rejected() - rejected == 1


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_plain_text_and_old_tls_are_rejected_and_logged(gateway: RunningGateway) -> None:
    old = gateway.tls()
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    for frontend, port in (("http", gateway.http_port), ("grpc_tls", gateway.grpc_port)):
        num_lines = len(gateway.log())
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/v2/health/live")
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"https://127.0.0.1:{port}/v2/health/live", verify=old)
        gateway.wait_until(lambda num_lines=num_lines: len(gateway.log()) >= num_lines + 2, 10)
        lines = [line for line in gateway.log()[num_lines:] if line["frontend"] == frontend]
        assert len([line for line in lines if line["reason"]]) == 2


def test_a_rejected_request_is_logged_with_its_reason(gateway: RunningGateway) -> None:
    send_raw(gateway, head("POST /v2/models/tensorrt_llm/infer HTTP/1.1", *SIZED, "connection: close", body=b"{}"))
    gateway.wait_until(lambda: any(line["path"] == "/v2/models/tensorrt_llm/infer" for line in gateway.log()), 5)
    line = [line for line in gateway.log() if line["path"] == "/v2/models/tensorrt_llm/infer"][-1]
    assert (line["status"], line["reason"]) == (404, "unknown path or method")


@pytest.mark.parametrize("character", ["a", '"', "\\", "\x01", "é"])
def test_a_long_path_leaves_the_log_line_complete(gateway: RunningGateway, character: str) -> None:
    num_lines = len(gateway.log())
    send_raw(gateway, head(f"GET /{character * 7_000} HTTP/1.1", "connection: close"))
    gateway.wait_until(lambda: len(gateway.log()) > num_lines, 5)
    line = gateway.log()[-1]
    # The log line of a request that HAProxy can't parse has no status.
    assert line.get("status", 400) in (400, 404)
    assert len(line["path"]) <= 1_000


def test_every_gateway_metric_in_the_dashboard_and_the_rules_is_exported(gateway: RunningGateway) -> None:
    rules = (PROJECT_ROOT / "docker" / "prometheus" / "gateway.rules.yml").read_text()
    named = set(re.findall(r"haproxy_\w+", "\n".join([rules, *expressions()])))
    exported = set(re.findall(r"^(haproxy_\w+)\{.*?proxy=\"(?:http|triton_http)\"", gateway.metrics(), re.MULTILINE))
    assert len(named) > 4
    assert named - exported == set()
