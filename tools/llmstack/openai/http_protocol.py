"""HTTP connections whose clients must send a request's head and body in time, and no endless head."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmstack.openai.joined_writes import JoinedWrites

HEAD_TIMEOUT_S, BODY_TIMEOUT_S = 10.0, 60.0
MAX_HEAD_BYTES = 64 << 10  # also of what follows a body, and between its chunks
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _Received(Enum):
    """How much of the newest request the client has sent."""

    NOTHING = 0
    PART_OF_HEAD = 1
    HEAD = 2
    ALL = 3


class TimedProtocol(HttpToolsProtocol):
    """One connection of uvicorn's HTTP/1.1 server. An answer may take as long as it needs."""

    limits_s: tuple[float, float] = (HEAD_TIMEOUT_S, BODY_TIMEOUT_S)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._received = _Received.NOTHING
        self._num_pending_bytes = 0  # received since the last head or the last part of a body
        self._waits_for: object = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(cast(asyncio.Transport, JoinedWrites(transport, self.loop)))
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Process bytes of the client."""
        self._num_pending_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as stop:
            self._ignore_upgrade(data[stop.args[0] :])
        if self._num_pending_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the client sent and close the connection."""
        if self.pipeline or self._is_answering():  # the text would become a part of an answer
            self.transport.close()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._received = _Received.PART_OF_HEAD

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. Blanks around a value are no part of it (RFC 9110, 5.5); the parser leaves those behind it."""
        super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Start the application. Trailers come later, and must not become headers."""
        if self.parser.should_upgrade():
            return
        super().on_headers_complete()
        self.headers = []
        self._received = _Received.HEAD
        self._num_pending_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        super().on_body(body)
        self._num_pending_bytes = 0

    def on_message_complete(self) -> None:
        """End the request's body."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._received = _Received.NOTHING if self.cycle.response_complete else _Received.ALL
        self._num_pending_bytes = 0

    def on_response_complete(self) -> None:
        """End the request; uvicorn limits how long a connection may be idle until the next one begins."""
        self._waits_for = None
        self._stop_timer()
        super().on_response_complete()
        if self._received is _Received.ALL and self.cycle.response_complete:
            self._received = _Received.NOTHING
        if self._received is not _Received.NOTHING:  # the next request came early
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Continue after a head that asks for another protocol, as Java's client does by default.

        The parser takes what follows such a head for that protocol. It gets the head again, without the question.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("CONNECT is not supported.")
            return
        head = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(token for token in value.split(b",") if token.strip().lower() != b"upgrade")
            if name != b"upgrade":
                head.append(b"%s: %s" % (name, value))
        self.data_received(b"\r\n".join([*head, b"", rest]))

    def _watch(self) -> None:
        """Start the time limit of what the client has to send now, unless it runs already."""
        limit_s = self._limit_s()
        waits_for = None if limit_s is None else (self._received is _Received.HEAD, self.cycle)
        if waits_for == self._waits_for:
            return
        self._waits_for = waits_for
        self._stop_timer()
        if limit_s is not None:
            self._timer = self.loop.call_later(limit_s, self._end)

    def _limit_s(self) -> float | None:
        """Seconds for what the client has to send now; None while it waits for an answer."""
        head_s, body_s = self.limits_s
        if self._received is _Received.HEAD:
            return None if self.pipeline else body_s
        is_waiting = self.cycle is not None and not self.cycle.response_complete
        return None if is_waiting else head_s

    def _is_answering(self) -> bool:
        return self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        if not self.transport.is_closing():
            if self._received is not _Received.HEAD or not self.cycle.response_started:
                self.transport.write(_TOO_SLOW)
            self.transport.close()
