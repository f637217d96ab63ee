"""An HTTP/1.1 server of a few pages, on one thread that no client can block.

h11 parses the requests and writes the responses. Connections need no threads of their own: each ends within
`DEADLINE_S`, and the oldest is closed when there are too many. Pages are rendered on separate threads, so a slow one
delays no other. Queries have one thread of their own: they wait for each other, and no page waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple

import h11

DEADLINE_S = 5.0
MAX_CONNECTIONS = 128
MAX_HEAD_BYTES = 8_192
NUM_PAGE_THREADS = 2
MAX_QUERIES = 8  # that wait or run
_METHODS = (b"GET", b"HEAD")


class Page(NamedTuple):
    """One response."""

    body: bytes
    status: int = HTTPStatus.OK
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Query(NamedTuple):
    """What a page that depends on its request is rendered from."""

    text: str
    """What stands behind the path's question mark."""
    headers: tuple[tuple[str, str], ...]
    """Names in lower case."""


Pages = Mapping[str, Callable[[], Page]]
QueryPages = Mapping[str, Callable[[Query], Page]]


class PageServer:
    """Serves `pages`, and `query_pages`, by path on a listening socket; `with` starts and ends it."""

    def __init__(
        self, listener: socket.socket, pages: Pages, name: str, query_pages: QueryPages = MappingProxyType({})
    ) -> None:
        self._listener, self._pages, self._query_pages, self._name = listener, pages, query_pages, name
        self._executor = ThreadPoolExecutor(NUM_PAGE_THREADS, thread_name_prefix=name)
        self._query_executor = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-query")
        self._free_queries = threading.Semaphore(MAX_QUERIES)
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), name=name)

    def __enter__(self) -> PageServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._loop.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._query_executor.shutdown(wait=False, cancel_futures=True)

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._listener.getsockname()[1])

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener)
        await self._closing.wait()
        server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        self._connections[task] = writer
        if len(self._connections) > MAX_CONNECTIONS:
            next(iter(self._connections)).cancel()
        try:
            with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._talk(reader, writer), DEADLINE_S)
        finally:
            del self._connections[task]
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        method = b""
        try:
            request = await _read_request(reader, connection)
            method, page = request.method, await self._render(request)
        except h11.RemoteProtocolError as error:
            page = _error_page(HTTPStatus(error.error_status_hint))
        writer.write(_response(connection, page, has_body=method != b"HEAD"))
        await writer.drain()
        writer.write_eof()
        await reader.read(MAX_HEAD_BYTES)  # the client closes first: an abort could overtake the response

    async def _render(self, request: h11.Request) -> Page:
        if request.method not in _METHODS:
            return _error_page(HTTPStatus.METHOD_NOT_ALLOWED)
        path, _, query = request.target.decode("latin-1").partition("?")
        if answer := self._query_pages.get(path):
            headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers)
            return await self._answer(partial(answer, Query(query, headers)))
        if render := self._pages.get(path):
            return await self._loop.run_in_executor(self._executor, _rendered, render)
        return _error_page(HTTPStatus.NOT_FOUND)

    async def _answer(self, answer: Callable[[], Page]) -> Page:
        if not self._free_queries.acquire(blocking=False):
            return _BUSY
        answering = self._query_executor.submit(_rendered, answer)
        # Its client may be gone by then.
        answering.add_done_callback(lambda _: self._free_queries.release())
        return await asyncio.wrap_future(answering)


async def _read_request(reader: asyncio.StreamReader, connection: h11.Connection) -> h11.Request:
    """The head of the request; a body is not read, because no page takes one.

    Raises:
        h11.RemoteProtocolError: not HTTP/1.x, a head longer than `MAX_HEAD_BYTES`, or an early end.
    """
    while not isinstance(event := connection.next_event(), h11.Request):
        # One byte beyond the limit at most: h11 checks the limit only while the head is incomplete.
        data = await reader.read(MAX_HEAD_BYTES + 1 - len(connection.trailing_data[0]))
        if not data:
            raise h11.RemoteProtocolError("the client closed the connection before the end of its request")
        connection.receive_data(data)
    return event


def _response(connection: h11.Connection, page: Page, *, has_body: bool) -> bytes:
    status = HTTPStatus(page.status)
    headers = [
        ("Content-Type", page.content_type),
        ("Content-Length", str(len(page.body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
        *page.headers,
    ]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", b", ".join(_METHODS).decode()))
    events = (
        h11.Response(status_code=status.value, headers=headers, reason=status.phrase),
        *([h11.Data(page.body)] if has_body else []),
        h11.EndOfMessage(),
    )
    return b"".join(connection.send(event) or b"" for event in events)


def _rendered(render: Callable[[], Page]) -> Page:
    try:
        return render()
    except Exception as error:
        return _error_page(HTTPStatus.INTERNAL_SERVER_ERROR, type(error).__name__)


_BUSY = Page(
    b'{"error":"overloaded: %d queries wait or run, limit %d; try again in 1 s"}\n' % (MAX_QUERIES, MAX_QUERIES),
    HTTPStatus.SERVICE_UNAVAILABLE,
    headers=(("Retry-After", "1"),),
)


def _error_page(status: HTTPStatus, detail: str = "") -> Page:
    text = f"{status.value} {status.phrase}" + (f": {detail}" if detail else "")
    return Page(text.encode() + b"\n", status, "text/plain; charset=utf-8")
