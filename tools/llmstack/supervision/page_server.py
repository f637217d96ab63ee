"""A few pages over HTTP/1.1, from one thread that no client can hold up.

Connections cost no thread. Each ends within `DEADLINE_S`, and when there are too many the oldest gives way. Pages are
made on threads of their own, so a slow one delays no other server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import NamedTuple

DEADLINE_S = 5.0
MAX_CONNECTIONS = 128
MAX_HEAD_BYTES = 8_192
NUM_PAGE_THREADS = 2
_METHODS = ("GET", "HEAD")


class Page(NamedTuple):
    """One answer."""

    body: bytes
    status: int = HTTPStatus.OK
    content_type: str = "application/json"


Pages = Mapping[str, Callable[[], Page]]


class PageServer:
    """Serves `pages` by path on a socket that listens already; `with` starts and ends it."""

    def __init__(self, listener: socket.socket, pages: Pages, name: str) -> None:
        self._listener, self._pages, self._name = listener, pages, name
        self._executor = ThreadPoolExecutor(NUM_PAGE_THREADS, thread_name_prefix=name)
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

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener, limit=MAX_HEAD_BYTES)
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
        method, page = await self._answer(reader)
        writer.write(_head(page) + (b"" if method == "HEAD" else page.body))
        await writer.drain()
        writer.write_eof()
        await reader.read(MAX_HEAD_BYTES)  # the client closes first: an abort could overtake the answer

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, Page]:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return "", _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except asyncio.IncompleteReadError:
            return "", _refusal(HTTPStatus.BAD_REQUEST)
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return "", _refusal(HTTPStatus.BAD_REQUEST)
        method, path = words[0], words[1].split("?", 1)[0]
        if method not in _METHODS:
            return method, _refusal(HTTPStatus.METHOD_NOT_ALLOWED)
        make = self._pages.get(path)
        if make is None:
            return method, _refusal(HTTPStatus.NOT_FOUND)
        return method, await self._loop.run_in_executor(self._executor, _make, make)


def _make(make: Callable[[], Page]) -> Page:
    try:
        return make()
    except Exception as error:
        return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, type(error).__name__)


def _refusal(status: HTTPStatus, detail: str = "") -> Page:
    text = f"{status.value} {status.phrase}" + (f": {detail}" if detail else "")
    return Page(text.encode() + b"\n", status, "text/plain; charset=utf-8")


def _head(page: Page) -> bytes:
    status = HTTPStatus(page.status)
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *([f"Allow: {', '.join(_METHODS)}"] if status == HTTPStatus.METHOD_NOT_ALLOWED else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode()
