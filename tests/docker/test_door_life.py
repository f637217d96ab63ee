"""The door in bad times: a server that dies, clients that send slowly, or too much, and its own end."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llmstack.door.configuration import Limits
from llmstack.server_process import TritonServer
from tests.docker.conftest import need
from tests.docker.running_door import RunningDoor, running_door
from tests.docker.test_attacks import BODY, HEADERS, INFER

NUM_CLIENTS = 6


@pytest.fixture(scope="module")
def pair() -> Iterator[list[TritonServer]]:
    need("haproxy", "openssl")
    with TritonServer(engine="echo") as first, TritonServer(engine="echo") as second:
        yield [first, second]


class Load:
    """Clients that ask without a pause until the block ends; `answers` has each status, 0 where there was none.

    Each request has its own connection: where a server resets a later request of a connection, HAProxy closes it
    without an answer or a line in its log, so that the client may ask again.
    """

    def __init__(self, door: RunningDoor) -> None:
        self._door = door
        self.answers: list[int] = []
        self._is_over = threading.Event()
        self._clients = [threading.Thread(target=self._ask) for _ in range(NUM_CLIENTS)]

    def __enter__(self) -> Load:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        for client in self._clients:
            client.join()

    def _ask(self) -> None:
        headers = HEADERS | {"connection": "close"}
        with httpx.Client(verify=self._door.tls(), timeout=30) as client:
            while not self._is_over.is_set():
                try:
                    status = client.post(self._door.http_url + INFER, json=BODY, headers=headers).status_code
                except httpx.HTTPError:
                    status = 0
                self.answers.append(status)


def test_a_server_that_dies_takes_no_request_with_it_that_had_not_reached_it(
    pair: list[TritonServer], tmp_path: Path
) -> None:
    limits = Limits(max_client_requests_per_10_s=100_000)
    with running_door(tmp_path, *pair, limits=limits) as door:
        with Load(door) as load:
            time.sleep(2)
            num_before = len(load.answers)
            os.killpg(pair[0].pid, signal.SIGKILL)
            door.wait_until(lambda: door.num_servers_up() == 1, 10)
            time.sleep(2)
        # A server may also die between an answer's head and its body: status 200, and an end of its own.
        failed = [line for line in door.log() if line["status"] != 200 or line["end"] != "--"]
        assert all(line["connect_ms"] >= 0 and line["server"] == "s1" for line in failed), failed
        assert len(failed) <= NUM_CLIENTS
        assert sum(status != 200 for status in load.answers) == len(failed)
        assert num_before > 50
        assert len(load.answers) > num_before + 50


def test_a_drained_door_answers_what_is_under_way_and_takes_nothing_new(echo: TritonServer, tmp_path: Path) -> None:
    with running_door(tmp_path, echo) as door:
        with door.connect() as under_way:
            under_way.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n")
            time.sleep(0.3)
            door.stop_softly()
            door.wait_until(lambda: not is_open(door.http_port), 10)
            under_way.sendall(b"\r\n")
            assert under_way.recv(4_096).startswith(b"HTTP/1.1 200 ")
        door.process.wait(timeout=15)


def test_slow_clients_are_let_go_and_hold_up_nobody(echo: TritonServer, tmp_path: Path) -> None:
    limits = Limits(max_header_s=1, max_body_s=1)
    with running_door(tmp_path, echo, limits=limits) as door:
        heads = (
            b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n",
            f"POST {INFER} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n".encode(),
        )
        for begun in heads:
            with door.connect() as slow:
                slow.sendall(begun)
                assert httpx.get(f"{door.http_url}/v2/health/live", verify=door.tls()).status_code == 200
                assert b" 408 " in slow.recv(4_096)


def test_who_asks_too_often_is_told_to_slow_down(echo: TritonServer, tmp_path: Path) -> None:
    with running_door(tmp_path, echo, limits=Limits(max_client_requests_per_10_s=20)) as door:
        with httpx.Client(verify=door.tls()) as client:
            answers = [client.get(f"{door.http_url}/v2/health/live").status_code for _ in range(30)]
        assert answers.count(200) == 20
        assert answers.count(429) == 10


def test_who_opens_too_many_connections_gets_no_more(echo: TritonServer, tmp_path: Path) -> None:
    with running_door(tmp_path, echo, limits=Limits(max_client_connections=4)) as door:
        clients = [httpx.Client(verify=door.tls()) for _ in range(4)]
        try:
            for client in clients:
                assert client.get(f"{door.http_url}/v2/health/live").status_code == 200
            with pytest.raises(httpx.HTTPError):
                httpx.get(f"{door.http_url}/v2/health/live", verify=door.tls())
        finally:
            for client in clients:
                client.close()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
