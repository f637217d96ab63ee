"""The gateway when a server dies, a client is slow or sends too much, and when the gateway itself stops."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from typer.main import get_command

from llm_policy.errors import Code, find_code
from llmstack.cli.app import app
from llmstack.gateway.backend import Backend
from llmstack.gateway.configuration import Limits
from llmstack.server.process import TritonServer
from tests.docker.conftest import require_programs
from tests.docker.running_gateway import RunningGateway, running_gateway
from tests.docker.test_attacks import BODY, HEADERS, INFER, METADATA, SERVICE, channel, infer_request
from tests.integration.live_service import LiveService

NUM_CLIENTS = 6


@pytest.fixture(scope="module")
def pair() -> Iterator[list[TritonServer]]:
    require_programs("haproxy", "openssl")
    with TritonServer(engine="echo") as first, TritonServer(engine="echo") as second:
        yield [first, second]


SendRequest = Callable[[], object]


@contextlib.contextmanager
def http_client(gateway: RunningGateway, **headers: str) -> Iterator[SendRequest]:
    """Sends requests over HTTPS and keeps the connection, unless a header says otherwise."""
    with httpx.Client(verify=gateway.tls(), timeout=30, headers=HEADERS | headers) as client:
        yield lambda: client.post(gateway.http_url + INFER, json=BODY).raise_for_status()


@contextlib.contextmanager
def grpc_client(gateway: RunningGateway) -> Iterator[SendRequest]:
    """Sends requests over one gRPC channel, without retries."""
    message = infer_request().SerializeToString()
    with channel(gateway) as opened:
        infer = opened.unary_unary(SERVICE + "ModelInfer")
        yield lambda: infer(message, metadata=METADATA, timeout=30)


CLIENTS = {
    "a connection for each request": lambda gateway: http_client(gateway, connection="close"),
    "a kept connection": http_client,
    "gRPC": grpc_client,
}


class Load:
    """Clients that send requests without a pause until the block ends. `failures` has their errors."""

    def __init__(self, gateway: RunningGateway, kind: str) -> None:
        self._gateway, self._client = gateway, CLIENTS[kind]
        self.num_answers = 0
        self.failures: list[Exception] = []
        self._is_stopping = threading.Event()
        self._clients = [threading.Thread(target=self._run) for _ in range(NUM_CLIENTS)]

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_stopping.set()
        for client in self._clients:
            client.join()

    def _run(self) -> None:
        with self._client(self._gateway) as send:
            while not self._is_stopping.is_set():
                self._send_once(send)

    def _send_once(self, send: SendRequest) -> None:
        try:
            send()
        except (httpx.HTTPError, grpc.RpcError) as error:
            self.failures.append(error)
        else:
            self.num_answers += 1


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_dying_server_fails_only_requests_that_had_reached_it(
    pair: list[TritonServer], tmp_path: Path, kind: str
) -> None:
    limits = Limits(max_client_requests_per_10_s=100_000)
    try:
        with running_gateway(tmp_path, *pair, limits=limits) as gateway:
            with Load(gateway, kind) as load:
                gateway.wait_until(lambda: load.num_answers > 50)
                os.killpg(pair[0].pid, signal.SIGKILL)
                gateway.wait_until(lambda: gateway.num_servers_up() == 1)
                num_down = load.num_answers
                gateway.wait_until(lambda: load.num_answers > num_down + 50)
            # A server may also die between an answer's headers and its body: the status is 200, `end` is not --.
            lines = [line for line in gateway.log() if line["frontend"] in ("http", "grpc")]
            failed = [line for line in lines if line["end"] != "--" or line["status"] != 200 or line["reason"] != "-"]
            assert all(line["connect_ms"] >= 0 and line["server"] == "s1" for line in failed), failed
            # At most the requests in flight. HAProxy writes no line when it closes a kept connection without an answer.
            assert len(failed) <= len(load.failures) <= NUM_CLIENTS
            # The message that invites a retry is for calls that no server received.
            assert not [each for each in load.failures if "no server took" in str(each)]
    finally:
        pair[0].stop()
        pair[0].start()
        pair[0].wait_ready()


@contextlib.contextmanager
def stopped(server: TritonServer) -> Iterator[None]:
    """The server's processes accept requests and do not answer."""
    os.killpg(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(server.pid, signal.SIGCONT)


def error_of(send: SendRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as failure:
        send()
    return failure.value.code(), failure.value.details()


def test_a_call_that_a_server_does_not_answer_in_time_is_not_reported_as_unavailable(
    echo: TritonServer, tmp_path: Path
) -> None:
    with running_gateway(tmp_path, echo, limits=Limits(max_answer_s=3)) as gateway, grpc_client(gateway) as send:
        send()
        with stopped(echo):
            assert error_of(send) == (grpc.StatusCode.DEADLINE_EXCEEDED, "gateway: the answer took too long")


def test_the_error_of_a_dead_engine_process_is_returned_unchanged_and_the_server_stays(tmp_path: Path) -> None:
    require_programs("haproxy", "openssl")
    # Without `llmstack serve` nobody closes the ledger's rows of failed requests: there must be few of them.
    limits = Limits(max_client_in_flight=8)
    with TritonServer(engine="echo") as server, running_gateway(tmp_path, server, limits=limits) as gateway:
        assert server.engine_process is not None
        with http_client(gateway) as send_http, grpc_client(gateway) as send_grpc:
            send_http()
            server.engine_process.kill()
            for _ in range(limits.max_client_in_flight + 1):
                with pytest.raises(httpx.HTTPStatusError) as failure:
                    send_http()
                assert failure.value.response.status_code == 503
                assert find_code(failure.value.response.json()["error"]) is Code.ENGINE_UNAVAILABLE
                status, message = error_of(send_grpc)
                assert (status, find_code(message)) == (grpc.StatusCode.UNAVAILABLE, Code.ENGINE_UNAVAILABLE)
            assert gateway.num_servers_up() == 1
            server.engine_process.start()
            server.engine_process.wait_ready(60)
            gateway.wait_until(lambda: is_answered(send_http))
            send_grpc()
        assert gateway.num_rejected() == 0


def is_answered(send: SendRequest) -> bool:
    with contextlib.suppress(httpx.HTTPStatusError):
        send()
        return True
    return False


# The option of `llmstack serve` that gives a load balancer time to see the drain before requests are rejected.
DRAIN_DELAY = "--drain-delay-secs"


COMMANDS: Any = get_command(app)


@pytest.mark.skipif(
    all(DRAIN_DELAY not in parameter.opts for parameter in COMMANDS.commands["serve"].params),
    reason=f"`llmstack serve` has no {DRAIN_DELAY}",
)
def test_a_drained_server_fails_no_request(tmp_path: Path) -> None:
    require_programs("haproxy", "openssl")
    limits = Limits(max_client_requests_per_10_s=100_000)
    with contextlib.ExitStack() as stack:
        services = [
            stack.enter_context(LiveService(tmp_path / name, environment={"LLMSTACK_DRAIN_DELAY_S": "5"}))
            for name in ("first", "second")
        ]
        backends = [Backend("127.0.0.1", each.http_port, each.grpc_port, each.ready_port) for each in services]
        gateway = stack.enter_context(RunningGateway(tmp_path, backends, limits, "/readyz"))
        loads = [stack.enter_context(Load(gateway, kind)) for kind in ("a kept connection", "gRPC")]
        gateway.wait_until(lambda: all(load.num_answers > 50 for load in loads))
        services[0].process.terminate()
        services[0].process.wait(timeout=60)
        after = [load.num_answers + 50 for load in loads]
        gateway.wait_until(lambda: all(load.num_answers > n for load, n in zip(loads, after, strict=True)))
    assert [load.failures for load in loads] == [[], []]


def test_a_draining_gateway_answers_requests_in_flight_and_accepts_no_new_ones(
    echo: TritonServer, tmp_path: Path
) -> None:
    with running_gateway(tmp_path, echo) as gateway:
        with gateway.connect() as in_flight:
            in_flight.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n")
            gateway.wait_until(lambda: gateway.metric("haproxy_frontend_current_sessions", proxy="http") == 1)
            gateway.begin_soft_stop()
            gateway.wait_until(lambda: not is_open(gateway.http_port), 10)
            in_flight.sendall(b"\r\n")
            assert in_flight.recv(4_096).startswith(b"HTTP/1.1 200 ")
        gateway.process.wait(timeout=15)


def test_slow_clients_time_out_and_do_not_delay_others(echo: TritonServer, tmp_path: Path) -> None:
    with running_gateway(tmp_path, echo, limits=Limits(max_header_s=1, max_body_s=1)) as gateway:
        heads = (
            b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n",
            f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n".encode(),
        )
        for begun in heads:
            with gateway.connect() as slow:
                slow.sendall(begun)
                assert httpx.get(f"{gateway.http_url}/v2/health/live", verify=gateway.tls()).status_code == 200
                assert b" 408 " in slow.recv(4_096)
        assert gateway.num_rejected() == len(heads)


def test_a_large_body_that_stops_midway_does_not_occupy_a_server(echo: TritonServer, tmp_path: Path) -> None:
    with running_gateway(tmp_path, echo, limits=Limits(max_body_s=1, max_answer_s=60)) as gateway:
        with gateway.connect(20) as slow:
            slow.sendall(f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n".encode())
            slow.sendall(b"x" * 40_000)
            assert slow.recv(4_096) == b""
        assert gateway.metric("haproxy_backend_client_aborts_total", proxy="upload_http") == 1
        (line,) = (line for line in gateway.log() if line["path"] == INFER)
        assert (line["server"], line["end"]) == ("upload", "cD")
        assert gateway.metric("haproxy_backend_current_sessions", proxy="triton_http") == 0


def test_a_large_grpc_message_that_stops_midway_does_not_occupy_a_server(echo: TritonServer, tmp_path: Path) -> None:
    message = infer_request(text=b"x" * 100_000).SerializeToString()
    begun = tmp_path / "begun"
    begun.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message[:40_000])
    (tmp_path / "gateway").mkdir()
    with running_gateway(tmp_path / "gateway", echo, limits=Limits(max_body_s=1, max_answer_s=600)) as gateway:
        certificate = str(gateway.directory / "certificate.pem")
        command = ["curl", "-s", "-i", "--http2", "-N", "--cacert", certificate, "-T", "-"]
        command += ["-X", "POST", "-H", "content-type: application/grpc", "-H", "te: trailers"]
        with subprocess.Popen(
            [*command, f"https://{gateway.grpc_url}{SERVICE}ModelInfer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        ) as curl:
            curl.stdin.write(begun.read_bytes())
            curl.stdin.flush()
            gateway.wait_until(lambda: any("ModelInfer" in line["path"] for line in gateway.log()))
            assert gateway.metric("haproxy_backend_client_aborts_total", proxy="uploaded_grpc") == 1
            assert gateway.metric("haproxy_backend_current_sessions", proxy="uploaded_grpc") == 0
            curl.kill()
        (line,) = (line for line in gateway.log() if "ModelInfer" in line["path"])
        assert line["server"] == "upload"


@pytest.mark.parametrize("size", [20_000, 3_000_000])
def test_a_large_body_is_allowed_over_both_protocols(echo: TritonServer, gateway: RunningGateway, size: int) -> None:
    # The policy read the whole body: it answers, or rejects the number of tokens.
    text = ("order " * (size // 6)).encode()
    body = {"inputs": [{"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": [text.decode()]}]}
    answer = httpx.post(gateway.http_url + INFER, json=body, headers=HEADERS, verify=gateway.tls(), timeout=60)
    assert answer.status_code == 200 or "token_budget_overrun" in answer.json()["error"]
    with channel(gateway) as opened:
        infer = opened.unary_unary(SERVICE + "ModelInfer")
        try:
            infer(infer_request(text=text).SerializeToString(), metadata=METADATA, timeout=60)
        except grpc.RpcError as error:
            assert "token_budget_overrun" in error.details()


def test_a_client_without_a_tls_handshake_is_disconnected(echo: TritonServer, tmp_path: Path) -> None:
    with running_gateway(tmp_path, echo, limits=Limits(max_header_s=1, max_body_s=1, max_answer_s=60)) as gateway:
        for port in (gateway.http_port, gateway.grpc_port):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as silent:
                assert silent.recv(1) == b""


def test_an_idle_stream_is_ended(echo: TritonServer, tmp_path: Path) -> None:
    is_over = threading.Event()

    def messages() -> Iterator[bytes]:
        yield infer_request().SerializeToString()
        is_over.wait(60)

    limits = Limits(max_body_s=1, max_answer_s=1, max_stream_idle_s=3)
    with running_gateway(tmp_path, echo, limits=limits) as gateway, channel(gateway) as opened:
        stream = opened.stream_stream(SERVICE + "ModelStreamInfer")(messages(), metadata=METADATA, timeout=60)
        next(stream)
        with pytest.raises(grpc.RpcError):
            next(stream)
        is_over.set()
        gateway.wait_until(lambda: any("StreamInfer" in line["path"] for line in gateway.log()), 10)
        (line,) = (line for line in gateway.log() if "StreamInfer" in line["path"])
        assert line["total_ms"] >= 3_000
        assert line["end"] in ("sD", "cD")


def test_requests_beyond_the_rate_limit_get_429(echo: TritonServer, tmp_path: Path) -> None:
    with running_gateway(tmp_path, echo, limits=Limits(max_client_requests_per_10_s=20)) as gateway:
        with httpx.Client(verify=gateway.tls()) as client:
            answers = [client.get(f"{gateway.http_url}/v2/health/live").status_code for _ in range(30)]
        assert answers.count(200) == 20
        assert answers.count(429) == 10


def test_connections_beyond_the_limit_of_one_client_are_rejected(echo: TritonServer, tmp_path: Path) -> None:
    with running_gateway(tmp_path, echo, limits=Limits(max_client_connections=4)) as gateway:
        clients = [httpx.Client(verify=gateway.tls()) for _ in range(4)]
        try:
            for client in clients:
                assert client.get(f"{gateway.http_url}/v2/health/live").status_code == 200
            with pytest.raises(httpx.HTTPError):
                httpx.get(f"{gateway.http_url}/v2/health/live", verify=gateway.tls())
            assert gateway.num_connections_rejected() == 1
        finally:
            for client in clients:
                client.close()


def test_behind_a_load_balancer_each_client_has_its_own_limits_and_an_ipv6_network_is_one_client(
    echo: TritonServer, tmp_path: Path
) -> None:
    limits = Limits(max_client_requests_per_10_s=2)
    with running_gateway(tmp_path, echo, limits=limits, accept_proxy=True) as gateway:

        def status_for(address: str) -> int:
            plain = socket.create_connection(("127.0.0.1", gateway.http_port), timeout=10)
            family = "TCP6" if ":" in address else "TCP4"
            target = "::1" if ":" in address else "127.0.0.1"
            plain.sendall(f"PROXY {family} {address} {target} 1000 443\r\n".encode())
            with gateway.tls("http/1.1").wrap_socket(plain, server_hostname="localhost") as secure:
                secure.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                return int(secure.recv(4_096).split()[1])

        assert [status_for("192.0.2.1") for _ in range(3)] == [200, 200, 429]
        assert status_for("192.0.2.2") == 200
        assert [status_for(f"2001:db8::{host}") for host in ("1", "2", "3:0:0:1")] == [200, 200, 429]
        assert status_for("2001:db8:0:1::1") == 200
        assert {line["client"] for line in gateway.log() if line["status"] == 429} == {"192.0.2.1", "2001:db8::3:0:0:1"}


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
