"""HTTP connections whose clients must send a request's head and body in time."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT_S, BODY_TIMEOUT_S = 10.0, 60.0
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class TimedProtocol(H11Protocol):
    """One connection of uvicorn's HTTP/1.1 server. An answer may take as long as it needs."""

    limits_s: tuple[float, float] = (HEAD_TIMEOUT_S, BODY_TIMEOUT_S)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._waits_for: object = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Process bytes of the client."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """End the request; uvicorn limits how long a connection may be idle until the next one begins."""
        self._waits_for = None
        self._stop_timer()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the time limit of what the client has to send now, unless it runs already."""
        state = self.conn.their_state
        waits_for = (state, self.cycle) if state in (h11.IDLE, h11.SEND_BODY) else None
        if waits_for == self._waits_for:
            return
        self._waits_for = waits_for
        self._stop_timer()
        if waits_for is not None:
            head_s, body_s = self.limits_s
            self._timer = self.loop.call_later(head_s if state is h11.IDLE else body_s, self._end)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        if not self.transport.is_closing():
            if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
                self.transport.write(_TOO_SLOW)
            self.transport.close()
