"""A transport that sends what is written in one turn of the event loop by one call of the kernel."""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedWrites:
    """Wraps a connection's transport. uvicorn writes an answer's head and its body apart; here they go together.

    Each call of the kernel costs more than the rest of an answer's way to it, and wakes up the client once more.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data` after what was written before, at the end of this turn of the event loop."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send what was written and close the connection."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()
