"""The page server answers whatever any client sends or does not send."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import pytest

from llmstack.server.ports import listen
from llmstack.supervision.page_server import MAX_CONNECTIONS, MAX_HEAD_BYTES, MAX_QUERIES, Page, PageServer, Query

HOST = "127.0.0.1"


def broken() -> Page:
    raise RuntimeError("/a/path/of/ours")


def show_query(query: Query) -> Page:
    return Page(f"{query.text} {dict(query.headers)['x-name']}".encode(), headers=(("X-Own", "1"),))


@pytest.fixture
def slow() -> threading.Event:
    return threading.Event()


@pytest.fixture
def server(slow: threading.Event) -> Iterator[PageServer]:
    def wait() -> Page:
        slow.wait(30)
        return Page(b"at last")

    def wait_for_query(query: Query) -> Page:
        slow.wait(30)
        return Page(f"at last {query.text}".encode())

    query_pages = {"/query": show_query, "/broken-query": lambda query: broken(), "/slow-query": wait_for_query}
    pages = {"/a": lambda: Page(b'{"a": 1}'), "/b": lambda: Page(b"no", 503), "/broken": broken, "/slow": wait}
    with PageServer(listen(HOST, "ready", 0), pages, "test", query_pages) as started:
        yield started
        slow.set()


def get(server: PageServer, path: str) -> httpx.Response:
    return httpx.get(f"http://{HOST}:{server.port}{path}", timeout=30)


def send(server: PageServer, text: bytes) -> bytes:
    """Send bytes, then no more, and read to the end."""
    with closing(socket.create_connection((HOST, server.port), timeout=30)) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def await_read(connection: socket.socket) -> None:
    """Wait until the server has read every byte that was sent on the connection."""
    client, server = (f"0100007F:{port:04X}" for port in (connection.getsockname()[1], connection.getpeername()[1]))
    deadline = time.monotonic() + 30
    while num_unread(server, client):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def num_unread(local: str, remote: str) -> int:
    """The bytes in the receive buffer of an IPv4 connection, whose ends are given as in /proc/net/tcp."""
    for line in Path("/proc/net/tcp").read_text().splitlines():
        fields = line.split()
        if fields[1:3] == [local, remote]:
            return int(fields[4].split(":")[1], 16)
    raise AssertionError("no such connection")


def test_a_page_has_its_status_and_headers(server):
    answer = get(server, "/a")
    assert (answer.status_code, answer.json()) == (200, {"a": 1})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert get(server, "/b").status_code == 503


def test_a_query_is_ignored(server):
    assert get(server, "/a?verbose=1").status_code == 200


def test_head_is_get_without_a_body(server):
    answer = httpx.head(f"http://{HOST}:{server.port}/a")
    assert (answer.headers["content-length"], answer.content) == ("8", b"")


def test_other_paths_are_not_found(server):
    assert get(server, "/").status_code == 404
    assert get(server, "/a/b").status_code == 404


def test_other_methods_are_not_allowed(server):
    answer = httpx.post(f"http://{HOST}:{server.port}/a", content=b"x" * 100_000)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


def test_a_page_that_fails_reveals_no_details(server):
    answer = get(server, "/broken")
    assert (answer.status_code, answer.text) == (500, "500 Internal Server Error: RuntimeError\n")


@pytest.mark.parametrize(
    "text", [b"\r\n\r\n", b"GET /a\r\n\r\n", b"GET /a SPDY/3\r\n\r\n", b"\xff\xfe \x00\r\n\r\n", b"GET /a HTTP/1.1\r\n"]
)
def test_a_malformed_request_is_an_error(server, text):
    assert send(server, text).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert get(server, "/a").status_code == 200


def test_a_client_of_http_1_0_gets_a_page(server):
    answer = send(server, b"GET /a HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b'{"a": 1}')


def test_a_request_in_pieces_is_read_to_its_end(server):
    with closing(socket.create_connection((HOST, server.port), timeout=30)) as connection:
        for piece in (b"GET /a HT", b"TP/1.1\r\nHost: h\r", b"\n\r\n"):
            connection.sendall(piece)
            await_read(connection)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_head_that_is_too_long_is_an_error(server):
    answer = send(server, b"GET /a HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_client_that_does_not_finish_its_request_is_disconnected(server, monkeypatch):
    monkeypatch.setattr("llmstack.supervision.page_server.DEADLINE_S", 0.1)
    with closing(socket.create_connection((HOST, server.port), timeout=30)) as connection:
        connection.sendall(b"GET /a HT")
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_idle_connections_do_not_block_new_ones(server):
    with ExitStack() as opened:
        for _ in range(2 * MAX_CONNECTIONS):
            opened.enter_context(closing(socket.create_connection((HOST, server.port), timeout=30)))
        assert get(server, "/a").status_code == 200


def test_a_slow_page_does_not_delay_another(server, slow):
    answers = []
    asking = threading.Thread(target=lambda: answers.append(get(server, "/slow").text))
    asking.start()
    assert get(server, "/a").status_code == 200
    assert answers == []
    slow.set()
    asking.join()
    assert answers == ["at last"]


def test_a_query_page_gets_its_query_and_headers(server):
    answer = httpx.get(f"http://{HOST}:{server.port}/query?a=1&b=%20", headers={"X-Name": "n"}, timeout=30)
    assert (answer.text, answer.headers["x-own"]) == ("a=1&b=%20 n", "1")
    assert get(server, "/broken-query?a").text == "500 Internal Server Error: RuntimeError\n"


def test_queries_wait_for_each_other_up_to_a_limit_and_no_page_waits_for_them(server, slow):
    answers: list[httpx.Response] = []
    asking = [
        threading.Thread(target=lambda: answers.append(get(server, "/slow-query?x"))) for _ in range(MAX_QUERIES + 1)
    ]
    for thread in asking:
        thread.start()
    deadline = time.monotonic() + 30
    while not answers:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (answers[0].status_code, answers[0].headers["retry-after"]) == (503, "1")
    assert answers[0].json()["error"].startswith("overloaded: ")
    assert get(server, "/a").status_code == 200
    slow.set()
    for thread in asking:
        thread.join()
    assert [answer.text for answer in answers[1:]] == ["at last x"] * MAX_QUERIES
    assert get(server, "/slow-query?y").text == "at last y"


@pytest.mark.slow
def test_queries_of_clients_that_went_away_give_their_places_back(server, slow, monkeypatch):
    monkeypatch.setattr("llmstack.supervision.page_server.DEADLINE_S", 0.1)
    for _ in range(3 * MAX_QUERIES):
        with suppress(httpx.HTTPError):
            assert get(server, "/slow-query").status_code == 503
    slow.set()
    monkeypatch.setattr("llmstack.supervision.page_server.DEADLINE_S", 30)
    assert get(server, "/slow-query?z").text == "at last z"


def test_the_end_closes_open_connections():
    with PageServer(listen(HOST, "ready", 0), {}, "test") as server:
        port = server.port
        connection = socket.create_connection((HOST, port), timeout=30)
        assert get(server, "/").status_code == 404  # so the first was accepted, too
    with closing(connection), suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), timeout=5)
