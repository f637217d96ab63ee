"""Requests whose clients are gone, through the gateway: they count for their client, and others get answers first."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tritonclient.grpc import service_pb2 as pb

from llmstack.gateway.backend import Backend
from llmstack.gateway.configuration import Limits
from tests.docker.conftest import require_programs
from tests.docker.running_gateway import RunningGateway
from tests.docker.test_attacks import BODY, INFER, SERVICE, channel, infer_request
from tests.integration.live_service import HOST, LiveService, wait_until

pytestmark = pytest.mark.slow

NUM_SENT = 64
NUM_TOKENS = 5_900
MAX_IN_FLIGHT = Limits().max_client_in_flight
SENT_BY_VANISHED = "canary = 0 AND tenant = 'vanishing'"
# Their answers end while the honest client's first one is on its way: a slot holds one at a time.
MAX_FINISHED = 4
OTHER_ADDRESS = "127.0.0.2"
TOO_MANY = "too many requests in flight"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveService]:
    """A service of its own for each test: it goes on with what a test abandoned."""
    require_programs("haproxy", "openssl")
    with LiveService(tmp_path / "service", "embedded") as service:
        yield service


@contextlib.contextmanager
def gateway_of(live: LiveService, directory: Path, **limits: int) -> Iterator[RunningGateway]:
    backend = Backend(HOST, live.http_port, live.grpc_port, live.ready_port)
    with RunningGateway(directory, [backend], limits=Limits(**limits), ready_path="/readyz") as gateway:
        yield gateway


def num_rows(live: LiveService, condition: str = "1") -> int:
    return int(live.rows(f"SELECT count(*) FROM request WHERE {SENT_BY_VANISHED} AND {condition}")[0][0])


def num_refused(gateway: RunningGateway) -> int:
    return sum(line.get("reason") == TOO_MANY for line in gateway.log())


def headers_of(live: LiveService, tenant: str) -> dict[str, str]:
    return {**live.headers, "X-Tenant": tenant}


def metadata_of(live: LiveService, tenant: str) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in headers_of(live, tenant).items()]


def post(gateway: RunningGateway, live: LiveService, tenant: str, address: str = HOST) -> httpx.Response:
    transport = httpx.HTTPTransport(verify=gateway.tls(), local_address=address)
    with httpx.Client(transport=transport, timeout=60) as client:
        return client.post(gateway.http_url + INFER, json=BODY, headers=headers_of(live, tenant))


def call_of(num_tokens: int) -> bytes:
    request = pb.ModelInferRequest(model_name="ensemble")
    for name, value in (("max_tokens", num_tokens), ("min_tokens", num_tokens)):
        request.inputs.add(name=name, datatype="INT32", shape=[1, 1]).contents.int_contents.append(value)
    text = request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    text.contents.bytes_contents.append(b"hello")
    return request.SerializeToString()


def wait_until_sent(gateway: RunningGateway, live: LiveService, before: int, max_in_flight: int) -> None:
    """Wait until every request was refused by the gateway or is in the ledger."""
    num_taken = min(max_in_flight, NUM_SENT)
    wait_until(lambda: num_refused(gateway) == NUM_SENT - num_taken, explain=lambda: str(num_refused(gateway)))
    wait_until(lambda: num_rows(live) == before + num_taken, explain=lambda: str(num_rows(live) - before))


def abandon_over_http(gateway: RunningGateway, live: LiveService, max_in_flight: int) -> None:
    """Send each request on a connection of its own, and close all of them once a server has the requests."""
    tensors = [
        BODY["inputs"][0],
        *({**BODY["inputs"][1], "name": name, "data": [NUM_TOKENS]} for name in ("max_tokens", "min_tokens")),
    ]
    body = json.dumps({"inputs": tensors}).encode()
    headers = {**headers_of(live, "vanishing"), "Host": "localhost", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    message, before = f"POST {INFER} HTTP/1.1\r\n{head}\r\n".encode() + body, num_rows(live)
    with contextlib.ExitStack() as opened:
        for _ in range(NUM_SENT):
            opened.enter_context(gateway.connect(60)).sendall(message)
        wait_until_sent(gateway, live, before, max_in_flight)


def abandon_over_grpc(gateway: RunningGateway, live: LiveService, max_in_flight: int) -> None:
    """Start all calls on one connection, and cancel them once a server has the requests."""
    before = num_rows(live)
    with channel(gateway) as opened:
        infer = opened.unary_unary(SERVICE + "ModelInfer")
        message, metadata = call_of(NUM_TOKENS), metadata_of(live, "vanishing")
        calls = [infer.future(message, metadata=metadata) for _ in range(NUM_SENT)]
        wait_until_sent(gateway, live, before, max_in_flight)
        for call in calls:
            call.cancel()


Abandon = Callable[[RunningGateway, LiveService, int], None]


def engine_process(live: LiveService) -> dict[str, Any]:
    """What the parent process says of the engine process: `pid`, `restarts` and others."""
    return dict(live.readiness()["engine_process"])


def num_connected(gateway: RunningGateway) -> float:
    names = ("triton_http", "triton_grpc")
    return sum(gateway.metric("haproxy_backend_current_sessions", proxy=name) for name in names)


@pytest.mark.parametrize("max_in_flight", [MAX_IN_FLIGHT, NUM_SENT + 16])
@pytest.mark.parametrize("abandon", [abandon_over_http, abandon_over_grpc])
def test_other_clients_get_answers_before_the_requests_of_a_client_that_is_gone(
    live: LiveService, tmp_path: Path, abandon: Abandon, max_in_flight: int
) -> None:
    processes, engine = {child.pid for child in live.child_processes()}, engine_process(live)
    assert engine["pid"] in processes
    num_settled = num_rows(live, "state = 'settled'")
    with gateway_of(live, tmp_path, max_client_in_flight=max_in_flight) as gateway:
        abandon(gateway, live, max_in_flight)
        began = time.monotonic()
        assert post(gateway, live, "honest", OTHER_ADDRESS).status_code == 200
        print(f"{abandon.__name__}, limit {max_in_flight}: honest answer after {time.monotonic() - began:.2f} s")
        assert num_rows(live, "state = 'settled'") <= num_settled + MAX_FINISHED
        # The connections to the server are closed, though the server goes on.
        wait_until(lambda: num_connected(gateway) == 0)
        assert num_rows(live, "state = 'admitted'") > 0
        # What it abandoned counts for the client: another tenant's name does not help.
        status = post(gateway, live, "another").status_code
        assert status == (429 if max_in_flight == MAX_IN_FLIGHT else 200)
    assert {child.pid for child in live.child_processes()} >= processes
    assert engine_process(live)["pid"] == engine["pid"]
    assert (live.readiness()["restarts"], engine_process(live)["restarts"]) == (0, 0)


@pytest.mark.parametrize("abandon", [abandon_over_http, abandon_over_grpc])
def test_a_client_is_served_again_some_time_after_it_abandoned_requests(
    live: LiveService, tmp_path: Path, abandon: Abandon
) -> None:
    with gateway_of(live, tmp_path, max_client_in_flight=8, abandoned_s=2) as gateway:
        abandon(gateway, live, 8)
        wait_until(lambda: num_connected(gateway) == 0)
        wait_until(lambda: post(gateway, live, "returning").status_code == 200)


def test_the_messages_of_a_stream_that_wait_for_answers_count_as_requests_in_flight(
    live: LiveService, tmp_path: Path
) -> None:
    is_over = threading.Event()

    def messages() -> Iterator[bytes]:
        yield from [call_of(NUM_TOKENS)] * 5
        is_over.wait(60)

    with gateway_of(live, tmp_path, max_client_in_flight=5) as gateway, channel(gateway) as opened:
        stream = opened.stream_stream(SERVICE + "ModelStreamInfer")(messages(), metadata=metadata_of(live, "streaming"))
        with pytest.raises(grpc.RpcError) as raised:
            next(stream)
        is_over.set()
        assert TOO_MANY in raised.value.details() or "Stream removed" in raised.value.details()
        assert num_refused(gateway) == 1


def test_a_stream_may_send_any_number_of_messages_one_after_another(live: LiveService, tmp_path: Path) -> None:
    may_send = threading.Semaphore(2)

    def messages() -> Iterator[bytes]:
        for _ in range(12):
            may_send.acquire()
            yield infer_request().SerializeToString()

    with gateway_of(live, tmp_path, max_client_in_flight=3) as gateway, channel(gateway) as opened:
        infer = opened.stream_stream(SERVICE + "ModelStreamInfer")
        num_answers = 0
        for _ in infer(messages(), metadata=metadata_of(live, "streaming"), timeout=60):
            num_answers += 1
            may_send.release()
        assert num_answers == 12
        assert post(gateway, live, "streaming").status_code == 200
