"""Writes to a socket that an asyncio transport reads and writes, on any thread."""

from __future__ import annotations

import asyncio
import socket
import threading


class SocketWriter:
    """Messages leave in the order of their `write` calls. Thread-safe.

    A thread that is not the loop's would wait for the loop to wake up, and then for Python's lock: 0.3 to 0.5 ms for a
    request. So a message goes to the socket at once, unless an earlier one waits for room in it.
    """

    def __init__(self, sock: socket.socket, transport: asyncio.WriteTransport) -> None:
        self._socket, self._transport = sock, transport
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._waiting = b""  # what `_hand_over` will give to the transport

    def write(self, message: bytes) -> None:
        """Send `message`. If the connection is broken it is lost, as the one who reads finds out."""
        with self._lock:
            if not self._waiting and self._transport.get_write_buffer_size() == 0:
                message = message[self._send(message) :]
            if message and not self._waiting:
                self._loop.call_soon_threadsafe(self._hand_over)
            self._waiting += message

    def _send(self, message: bytes) -> int:
        try:
            return self._socket.send(message)
        except BlockingIOError:
            return 0
        except OSError:
            return len(message)

    def _hand_over(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, b""
            self._transport.write(waiting)
