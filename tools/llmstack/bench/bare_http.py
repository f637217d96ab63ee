"""An HTTP client that costs next to nothing: it sends ready bytes and reads no more of an answer than its length."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import cast
from urllib.parse import urlsplit

from llmstack.bench.load import LoadError

_END_OF_HEAD, _LENGTH = b"\r\n\r\n", b"content-length:"


class BareHttpConnection(asyncio.Protocol):
    """One connection, which sends the same request as often as it is asked to, one after the other."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = b""
        self._transport: asyncio.Transport
        self._answered: asyncio.Future[None] | None = None

    async def send(self) -> None:
        """Send the request and wait until its answer is complete.

        Raises:
            LoadError: the answer has another status than 200, or the connection broke.
        """
        self._received = b""
        answered = self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(self._request)
        await answered

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Collect the answer."""
        self._received += data
        head, _, body = self._received.partition(_END_OF_HEAD)
        if self._answered is None or self._answered.done() or len(body) < _length(head):
            return
        if head.startswith(b"HTTP/1.1 200 "):
            self._answered.set_result(None)
        else:
            self._answered.set_exception(LoadError(body.decode(errors="replace")))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wait for an answer."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(LoadError("the connection broke"))


@contextlib.asynccontextmanager
async def open_bare(url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[BareHttpConnection]:
    """A connection that posts `body` to `url`."""
    parts = urlsplit(url)
    head = {"Host": parts.netloc, **headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"POST {parts.path or '/'} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    request = "\r\n".join(lines).encode() + body
    loop = asyncio.get_running_loop()
    host, port = str(parts.hostname), parts.port or 80
    _, connection = await loop.create_connection(lambda: BareHttpConnection(request), host, port)
    try:
        yield connection
    finally:
        connection.close()


def _length(head: bytes) -> int:
    """The length of the body that the head promises; more than anything while the head is incomplete."""
    for line in head.lower().split(b"\r\n"):
        if line.startswith(_LENGTH):
            return int(line.removeprefix(_LENGTH))
    return 1 << 62
