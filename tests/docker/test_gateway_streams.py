"""Streams of a real server through the gateway pass piece by piece, count while they last, and can be cancelled."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.docker.conftest import require_programs
from tests.docker.running_gateway import RunningGateway
from tests.docker.test_abandoned_requests import gateway_of, headers_of, metadata_of, num_refused
from tests.docker.test_attacks import INFER, SERVICE, channel, head, send_raw
from tests.integration.live_service import LiveService, wait_until

pytestmark = pytest.mark.slow

GENERATE_STREAM = "/v2/models/ensemble_stream/generate_stream"
VERSIONS = ("--http1.1", "--http2")
# Seconds of work for the embedded engine: every test sees its stream while the engine works on it.
LONG, VERY_LONG = 300, 3_000


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    require_programs("haproxy", "openssl", "curl")
    with LiveService(tmp_path_factory.mktemp("service"), "embedded") as service:
        yield service


@pytest.fixture(scope="module")
def gateway(live: LiveService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with gateway_of(live, tmp_path_factory.mktemp("gateway")) as running:
        yield running


def inputs_of(num_tokens: int) -> dict[str, Any]:
    return {"text_input": "Say: zażółć gęślą jaźń", "max_tokens": num_tokens, "min_tokens": num_tokens}


def unary_answer(gateway: RunningGateway, live: LiveService, num_tokens: int) -> dict[str, Any]:
    """What the ensemble answers, by output name."""
    tensors = [
        {"name": name, "shape": [1, 1], "datatype": "INT32" if isinstance(value, int) else "BYTES", "data": [value]}
        for name, value in inputs_of(num_tokens).items()
    ]
    answer = httpx.post(
        gateway.http_url + INFER,
        json={"inputs": tensors},
        headers=headers_of(live, "unary"),
        verify=gateway.tls(),
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"][0] for output in answer.json()["outputs"] if output["data"]}


@contextlib.contextmanager
def sse(
    gateway: RunningGateway, live: LiveService, tenant: str, num_tokens: int, version: str = "--http1.1"
) -> Iterator[Iterator[dict[str, Any]]]:
    """The pieces of one stream over HTTPS. At the end of the block the client is gone."""
    body = json.dumps({**inputs_of(num_tokens), **headers_of(live, tenant)})
    command = ["curl", "-sS", "-N", version, "--cacert", str(gateway.directory / "certificate.pem"), "-d", body]
    with subprocess.Popen([*command, gateway.http_url + GENERATE_STREAM], stdout=subprocess.PIPE) as client:
        yield (json.loads(line.removeprefix(b"data: ")) for line in client.stdout if line.strip())
        client.kill()


def message_of(num_tokens: int, request_id: str = "", model: str = "ensemble_stream") -> bytes:
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    for name, value in inputs_of(num_tokens).items():
        if isinstance(value, int):
            tensor = request.inputs.add(name=name, datatype="INT32", shape=[1, 1])
            tensor.contents.int_contents.append(value)
        else:
            tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
            tensor.contents.bytes_contents.append(value.encode())
    return request.SerializeToString()


class GrpcStream:
    """One gRPC stream; messages can be sent while it is open."""

    def __init__(self, opened: grpc.Channel, live: LiveService, tenant: str, *messages: bytes) -> None:
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        for message in messages:
            self.send(message)
        infer = opened.stream_stream(SERVICE + "ModelStreamInfer")
        self.call = infer(iter(self._requests.get, None), metadata=metadata_of(live, tenant), timeout=120)

    def send(self, message: bytes | None) -> None:
        """Send a message; None ends the client's side."""
        self._requests.put(message)

    def read(self) -> dict[str, Any]:
        """The next piece, by output name; with the request's id."""
        answer = pb.ModelStreamInferResponse.FromString(next(self.call))
        assert not answer.error_message, answer.error_message
        response = answer.infer_response
        raw = dict(zip((each.name for each in response.outputs), response.raw_output_contents, strict=True))
        return {
            "id": response.id,
            "text_output": raw["text_output"][4:].decode(),
            "is_last": raw["is_last"] == b"\1",
            "num_output_tokens": int.from_bytes(raw["num_output_tokens"], "little"),
        }

    def read_answer(self) -> list[dict[str, Any]]:
        """All pieces up to the last one of a request."""
        pieces = [self.read()]
        while not pieces[-1]["is_last"]:
            pieces.append(self.read())
        return pieces


@contextlib.contextmanager
def grpc_stream(gateway: RunningGateway, live: LiveService, tenant: str, *messages: bytes) -> Iterator[GrpcStream]:
    with channel(gateway) as opened:
        stream = GrpcStream(opened, live, tenant, *messages)
        try:
            yield stream
        finally:
            stream.send(None)


def states(live: LiveService, tenant: str) -> list[str]:
    return [state for (state,) in live.rows("SELECT state FROM request WHERE tenant = ? ORDER BY id", tenant)]


def check_pieces(pieces: list[dict[str, Any]], answer: dict[str, Any]) -> None:
    assert len(pieces) > LONG // 4
    assert "".join(piece["text_output"] for piece in pieces) == answer["text_output"]
    assert [piece["is_last"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1]["num_output_tokens"] == answer["num_output_tokens"]


def wait_cancelled(live: LiveService, tenant: str) -> None:
    """Wait until the ledger says that the client cancelled, with less than all tokens, and the engine is free."""
    wait_until(lambda: states(live, tenant) == ["cancelled"], explain=lambda: str(states(live, tenant)))
    (row,) = live.rows("SELECT code, num_completion_tokens FROM request WHERE tenant = ?", tenant)
    assert row[0] == "cancelled"
    assert 0 < row[1] < VERY_LONG
    wait_until(lambda: not is_engine_busy(live))


def is_engine_busy(live: LiveService) -> bool:
    return bool(live.readiness()["engine_process"]["running"])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pieces_over_https_pass_one_by_one_and_joined_are_the_ensembles_answer(
    live: LiveService, gateway: RunningGateway, version: str
) -> None:
    tenant = f"pieces{version}"
    with sse(gateway, live, tenant, LONG, version) as stream:
        pieces = [next(stream)]
        assert states(live, tenant) == ["admitted"]
        pieces += stream
    check_pieces(pieces, unary_answer(gateway, live, LONG))
    assert states(live, tenant) == ["settled"]


def test_the_pieces_over_grpc_pass_one_by_one_and_joined_are_the_ensembles_answer(
    live: LiveService, gateway: RunningGateway
) -> None:
    with grpc_stream(gateway, live, "pieces", message_of(LONG)) as stream:
        pieces = [stream.read()]
        assert states(live, "pieces") == ["admitted"]
        pieces += stream.read_answer()
    check_pieces(pieces, unary_answer(gateway, live, LONG))
    assert states(live, "pieces") == ["settled"]


def test_the_streaming_model_answers_with_one_response_too(live: LiveService, gateway: RunningGateway) -> None:
    body = {**inputs_of(40), "stream": False, **headers_of(live, "one-response")}
    url = gateway.http_url + GENERATE_STREAM.removesuffix("_stream")
    answer = httpx.post(url, json=body, verify=gateway.tls(), timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["text_output"] == unary_answer(gateway, live, 40)["text_output"]
    assert answer.json()["is_last"] is True


def test_an_error_of_the_policy_is_the_only_event_of_a_stream(live: LiveService, gateway: RunningGateway) -> None:
    with sse(gateway, live, "too-many-tokens", 10_000) as stream:
        (event,) = stream
    assert event["error"].startswith("token_budget_overrun")


def test_the_streaming_model_has_no_infer(gateway: RunningGateway) -> None:
    line = "POST /v2/models/ensemble_stream/infer HTTP/1.1"
    answer = send_raw(gateway, head(line, "content-length: 2", "connection: close", body=b"{}"))
    assert answer.startswith(b"HTTP/1.1 404 ")
    with channel(gateway) as opened, pytest.raises(grpc.RpcError, match="only the model ensemble may be called"):
        opened.unary_unary(SERVICE + "ModelInfer")(message_of(4), timeout=20)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_engine_is_free_once_a_client_of_an_https_stream_is_gone(
    live: LiveService, tmp_path: Path, version: str
) -> None:
    with gateway_of(live, tmp_path, max_client_in_flight=1) as gateway:
        with sse(gateway, live, f"gone{version}", VERY_LONG, version) as stream:
            next(stream)
        wait_cancelled(live, f"gone{version}")
        # Nothing is left of the request: it counts no longer.
        unary_answer(gateway, live, 4)


def test_the_engine_is_free_once_a_client_has_cancelled_a_grpc_stream(live: LiveService, tmp_path: Path) -> None:
    with (
        gateway_of(live, tmp_path, max_client_in_flight=2) as gateway,
        grpc_stream(gateway, live, "cancelling", message_of(VERY_LONG)) as stream,
    ):
        stream.read()
        stream.call.cancel()
        wait_cancelled(live, "cancelling")
        # Nothing is left of the request: it counts no longer.
        with grpc_stream(gateway, live, "next", message_of(4)) as following:
            assert following.read_answer()[-1]["is_last"]


def test_a_request_to_the_ensemble_counts_after_its_stream_was_cancelled(live: LiveService, tmp_path: Path) -> None:
    with gateway_of(live, tmp_path, max_client_in_flight=2) as gateway:
        with grpc_stream(gateway, live, "going-on", message_of(LONG, model="ensemble")) as stream:
            wait_until(lambda: states(live, "going-on") == ["admitted"])
            stream.call.cancel()
            gateway.wait_until(lambda: any("ModelStreamInfer" in line["path"] for line in gateway.log()))
        with grpc_stream(gateway, live, "refused", message_of(4)) as following, pytest.raises(grpc.RpcError):
            following.read()
        assert states(live, "refused") == []
    wait_until(lambda: not is_engine_busy(live))


def status_of_unary(gateway: RunningGateway, live: LiveService) -> int:
    try:
        unary_answer(gateway, live, 4)
    except AssertionError as failure:
        assert "too_many_requests" in str(failure)
        return 429
    return 200


def test_a_stream_over_https_is_one_request_in_flight_until_it_ends(live: LiveService, tmp_path: Path) -> None:
    with gateway_of(live, tmp_path, max_client_in_flight=1) as gateway:
        with sse(gateway, live, "in-flight", LONG) as stream:
            next(stream)
            assert status_of_unary(gateway, live) == 429
            assert list(stream)[-1]["is_last"]
        wait_until(lambda: status_of_unary(gateway, live) == 200)


def test_a_request_of_a_grpc_stream_is_in_flight_until_its_last_piece(live: LiveService, tmp_path: Path) -> None:
    with (
        gateway_of(live, tmp_path, max_client_in_flight=2) as gateway,
        grpc_stream(gateway, live, "in-flight", message_of(LONG)) as stream,
    ):
        stream.read()
        stream.read()
        assert status_of_unary(gateway, live) == 429
        assert stream.read_answer()[-1]["is_last"]
        # The open stream and the next request.
        assert status_of_unary(gateway, live) == 200
        stream.send(message_of(4, model="ensemble"))
        next(stream.call)
        assert status_of_unary(gateway, live) == 200


def test_several_requests_of_one_grpc_stream_are_answered_at_the_same_time(
    live: LiveService, gateway: RunningGateway
) -> None:
    with grpc_stream(gateway, live, "together", *(message_of(LONG, name) for name in "ab")) as stream:
        pieces = stream.read_answer() + stream.read_answer()
    answer = unary_answer(gateway, live, LONG)
    for name in "ab":
        check_pieces([piece for piece in pieces if piece["id"] == name], answer)


def num_streams_ended(gateway: RunningGateway) -> int:
    return sum("ModelStreamInfer" in line["path"] for line in gateway.log())


def test_nothing_is_counted_for_streams_that_ended_or_were_cancelled(live: LiveService, tmp_path: Path) -> None:
    num_streams, limit = 6, 30
    with gateway_of(live, tmp_path, max_client_in_flight=limit) as gateway:
        with contextlib.ExitStack() as opened:
            messages = [message_of(20, name) for name in "abc"]
            streams = [opened.enter_context(grpc_stream(gateway, live, "many", *messages)) for _ in range(num_streams)]
            for cancelled, ended in zip(streams[::2], streams[1::2], strict=True):
                for _ in range(5):
                    cancelled.read()
                cancelled.call.cancel()
                for _ in messages:
                    ended.read_answer()
        gateway.wait_until(lambda: num_streams_ended(gateway) == num_streams)
        # Beside the open stream itself there is room for one message less than the limit, and for no more.
        with grpc_stream(gateway, live, "full", *[message_of(8)] * (limit - 1)) as stream:
            for _ in range(limit - 1):
                assert stream.read_answer()[-1]["is_last"]
        with (
            grpc_stream(gateway, live, "too-full", *[message_of(LONG)] * limit) as stream,
            pytest.raises(grpc.RpcError),
        ):
            for _ in range(limit):
                stream.read_answer()
        gateway.wait_until(lambda: num_refused(gateway) == 1)
    wait_until(lambda: not is_engine_busy(live))


@contextlib.contextmanager
def paused_engine(live: LiveService) -> Iterator[None]:
    engine = psutil.Process(live.readiness()["engine_process"]["pid"])
    engine.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        engine.send_signal(signal.SIGCONT)


def wait_until_a_slow_body_has_timed_out(gateway: RunningGateway) -> None:
    answer = send_raw(gateway, head(f"POST {INFER} HTTP/1.1", "content-length: 100"), seconds=30)
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_stream_may_pause_for_longer_than_a_body_may(live: LiveService, tmp_path: Path, version: str) -> None:
    with gateway_of(live, tmp_path, max_body_s=1) as gateway, sse(gateway, live, "paused", LONG, version) as stream:
        next(stream)
        with paused_engine(live):
            wait_until_a_slow_body_has_timed_out(gateway)
        assert list(stream)[-1]["is_last"]


def test_a_stream_may_last_longer_than_an_answer_may_be_silent(live: LiveService, tmp_path: Path) -> None:
    with gateway_of(live, tmp_path, max_answer_s=1, max_stream_idle_s=1) as gateway:
        with sse(gateway, live, "lasting", 2 * LONG) as stream:
            last = list(stream)[-1]
        assert last["is_last"]
        assert last["total_time_us"] > 1_000_000
        with grpc_stream(gateway, live, "lasting", message_of(2 * LONG)) as opened:
            assert opened.read_answer()[-1]["is_last"]


def test_a_silent_stream_over_https_is_ended_and_its_request_cancelled(live: LiveService, tmp_path: Path) -> None:
    with gateway_of(live, tmp_path, max_answer_s=1) as gateway:
        with sse(gateway, live, "silent", VERY_LONG) as stream:
            next(stream)
            with paused_engine(live):
                assert not any(piece["is_last"] for piece in stream)
        wait_cancelled(live, "silent")
        (line,) = (line for line in gateway.log() if line["path"] == GENERATE_STREAM)
        assert line["end"] == "sD"
