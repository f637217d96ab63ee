"""Slow and half-open connections end after a limit and shut nobody out."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from threading import Event
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from llmstack.board import bounded_protocol
from llmstack.board.bounded_protocol import MAX_CONNECTIONS_PER_ADDRESS, BoundedProtocol, Phase
from llmstack.board.machine_api import MachineApi
from tests.board_client import LiveBoard, live_board

SHORT_S = 0.2
TIMEOUT_S = 20.0
NUM_BYTES = 64 << 20  # more than the buffers between the board and its client hold
HALF_HEAD = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n"
HALF_BODY = b"POST /webhooks HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{"
WHOLE = HALF_HEAD + b"\r\n"


@pytest.fixture
def board(tmp_path) -> Iterator[LiveBoard]:
    with live_board(tmp_path) as live:
        yield live


def connect(board: LiveBoard, sent: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
    parts = urlsplit(board.url)
    connection = socket.create_connection((parts.hostname, parts.port), TIMEOUT_S, (source, 0))
    connection.sendall(sent)
    return connection


def received(connection: socket.socket) -> bytes:
    """Everything until the board closes the connection."""
    found = bytearray()
    try:
        while chunk := connection.recv(4_096):
            found += chunk
    except ConnectionResetError:
        pass
    return bytes(found)


def is_healthy(board: LiveBoard) -> bool:
    return httpx.get(f"{board.url}/healthz", timeout=TIMEOUT_S).text == "ok\n"


def shorten(monkeypatch: pytest.MonkeyPatch, *phases: Phase) -> None:
    monkeypatch.setattr(BoundedProtocol, "limits_s", dict.fromkeys(Phase, TIMEOUT_S) | dict.fromkeys(phases, SHORT_S))


@pytest.mark.parametrize(("sent", "phase"), [(b"", Phase.HEAD), (HALF_HEAD, Phase.HEAD), (HALF_BODY, Phase.BODY)])
def test_a_connection_that_waits_too_long_for_its_client_gets_408(board, monkeypatch, sent, phase):
    shorten(monkeypatch, phase)
    with closing(connect(board, sent)) as connection:
        assert received(connection).startswith(b"HTTP/1.1 408 ")
    assert is_healthy(board)


def test_a_client_that_sends_byte_by_byte_does_not_extend_its_limit(board, monkeypatch):
    shorten(monkeypatch, Phase.HEAD)
    began = time.monotonic()
    with closing(connect(board)) as connection:
        connection.settimeout(0.02)
        answer = b""
        while not answer and time.monotonic() - began < TIMEOUT_S:
            connection.sendall(b"G")
            try:
                answer = connection.recv(100)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_is_kept_open_ends_after_the_limit_of_the_next_head(board, monkeypatch):
    shorten(monkeypatch, Phase.HEAD)
    with closing(connect(board, WHOLE)) as connection:
        assert received(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_does_not_take_its_response_is_disconnected(tmp_path, monkeypatch):
    async def send_much(api: MachineApi, request: Request) -> Response:
        return PlainTextResponse("x" * NUM_BYTES)

    lost = Event()
    end = BoundedProtocol.connection_lost

    def note_lost(protocol: BoundedProtocol, error: Exception | None) -> None:
        end(protocol, error)
        lost.set()

    shorten(monkeypatch, Phase.HEAD)
    monkeypatch.setattr(MachineApi, "health", send_much)
    monkeypatch.setattr(BoundedProtocol, "connection_lost", note_lost)
    with live_board(tmp_path) as board, closing(connect(board, WHOLE)) as connection:
        assert lost.wait(TIMEOUT_S)
        assert len(received(connection)) < NUM_BYTES


def test_a_response_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    async def wait(api: MachineApi, request: Request) -> Response:
        await asyncio.sleep(5 * SHORT_S)
        return PlainTextResponse("late")

    shorten(monkeypatch, Phase.RESPONSE)
    monkeypatch.setattr(MachineApi, "health", wait)
    with live_board(tmp_path) as board, closing(connect(board, WHOLE)) as connection:
        assert received(connection) == b""


def test_half_open_connections_of_an_address_shut_nobody_out(board):
    with ExitStack() as opened:
        connections = [
            opened.enter_context(closing(connect(board, HALF_BODY if number % 2 else HALF_HEAD)))
            for number in range(4 * MAX_CONNECTIONS_PER_ADDRESS)
        ]
        for _ in range(20):
            assert is_healthy(board)
        assert received(connections[0]).startswith(b"HTTP/1.1 408 ")  # the oldest ones made room


def test_half_open_connections_of_many_addresses_shut_nobody_out(board, monkeypatch):
    monkeypatch.setattr(bounded_protocol, "MAX_CONNECTIONS", 30)
    with ExitStack() as opened:
        few = opened.enter_context(closing(connect(board, HALF_HEAD, "127.0.1.1")))
        for number in range(90):
            opened.enter_context(closing(connect(board, HALF_HEAD, f"127.0.2.{number % 3 + 1}")))
        for _ in range(20):
            assert is_healthy(board)
        few.sendall(b"\r\n")  # an address with fewer connections than others keeps them
        few.settimeout(TIMEOUT_S)
        assert few.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("/run/board.sock", "/run/board.sock"),
    ],
)
def test_the_limit_is_for_an_ipv4_address_or_an_ipv6_network(address, network):
    assert bounded_protocol._network(address) == network


def test_connections_in_use_are_not_replaced(board, monkeypatch):
    monkeypatch.setattr(bounded_protocol, "MAX_CONNECTIONS_PER_ADDRESS", 2)
    monkeypatch.setattr(BoundedProtocol, "_current_phase", lambda protocol: Phase.RESPONSE)
    with ExitStack() as opened:
        for _ in range(2):
            opened.enter_context(closing(connect(board)))
        third = opened.enter_context(closing(connect(board)))
        assert received(third).startswith(b"HTTP/1.1 503 ")
