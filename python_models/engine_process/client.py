"""A client of the engine process: one connection, which it makes again whenever it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from engine_process.messages import (
    MAX_MESSAGE_BYTES,
    PROTOCOL_VERSION,
    Abort,
    End,
    Generate,
    Hello,
    ProtocolError,
    Refused,
    Stats,
    StatsRequest,
    Tokens,
    Welcome,
    encode,
    read_engine_message,
)
from engine_process.socket_path import connect
from engine_process.socket_writer import SocketWriter

RECONNECT_S = 0.1


class Listener(Protocol):
    """Receives what becomes of one request, on the client's loop."""

    def on_tokens(self, tokens: Tokens) -> None:
        """New tokens."""

    def on_end(self, end: End) -> None:
        """The end; the last call."""


class EngineClient:
    """Sends requests to the engine whose socket is in `state_dir`. `hello` names the engine that is expected.

    `run` and the listeners run on one asyncio loop; requests may be sent and aborted on any thread.
    """

    def __init__(self, state_dir: Path, hello: Hello, log: Callable[[str], None]) -> None:
        self._state_dir, self._hello, self._log = state_dir, hello, log
        self._listeners: dict[int, Listener] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: SocketWriter | None = None
        self._lock = threading.Lock()  # a request is with the listeners before anybody can abort or lose it
        self._ids = itertools.count(1)
        self._last_problem = ""
        self.welcome: Welcome | None = None
        """The engine's first message; None while there is no connection."""

    async def run(self) -> None:
        """Keep a connection until the task is cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                await self._serve_connection()
            except (OSError, asyncio.IncompleteReadError, ProtocolError) as error:
                self._report(str(error) or type(error).__name__)
            finally:
                self._lose_connection()
            await asyncio.sleep(RECONNECT_S)

    async def _serve_connection(self) -> None:
        sock = connect(self._state_dir)
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=MAX_MESSAGE_BYTES)
        try:
            writer.write(encode(self._hello))
            first = await read_engine_message(reader)
            if isinstance(first, Refused):
                raise ProtocolError(f"the engine refuses this client: {first.reason}")
            if not isinstance(first, Welcome):
                raise ProtocolError(f"the engine's first message is {type(first).__name__}")
            self._writer, self.welcome, self._last_problem = SocketWriter(sock, writer.transport), first, ""
            while True:
                self._dispatch(await read_engine_message(reader))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def generate(self, request: Generate, listener: Listener) -> None:
        """Send a request, which gets an id. Without a connection its listener receives an end."""
        with self._lock:
            request.id = next(self._ids)
            if self._writer is not None:
                message = encode(request)
                self._listeners[request.id] = listener
                self._writer.write(message)
            elif self._loop is not None:
                self._loop.call_soon_threadsafe(listener.on_end, unavailable(request.id))

    def abort(self, request_id: int) -> None:
        """Say that nobody waits for this request any more; its listener is not called again."""
        with self._lock:
            if self._listeners.pop(request_id, None) is not None and self._writer is not None:
                self._writer.write(encode(Abort(request_id)))

    def cancel(self, request_id: int) -> None:
        """Say that nobody waits for this request any more; its listener still receives its end."""
        with self._lock:
            if request_id in self._listeners and self._writer is not None:
                self._writer.write(encode(Abort(request_id)))

    def _dispatch(self, message: object) -> None:
        if isinstance(message, Tokens):
            if (listener := self._listeners.get(message.id)) is not None:
                self._hand_over(listener, message)
        elif isinstance(message, End) and (listener := self._listeners.pop(message.id, None)) is not None:
            listener.on_end(message)

    def _hand_over(self, listener: Listener, tokens: Tokens) -> None:
        """A listener that can't take its tokens loses its request, and nobody else does."""
        try:
            listener.on_tokens(tokens)
        except Exception as error:
            self._log(f"tokens can't be taken: {type(error).__name__}")
            self.abort(tokens.id)
            listener.on_end(End(tokens.id, "error", "internal", "the tokens could not be taken"))

    def _lose_connection(self) -> None:
        with self._lock:
            self._writer = self.welcome = None
            listeners, self._listeners = self._listeners, {}
        for request_id, listener in listeners.items():
            listener.on_end(unavailable(request_id))

    def _report(self, problem: str) -> None:
        if problem != self._last_problem:
            self._log(f"no connection to the engine process: {problem}")
            self._last_problem = problem


def release_hello(release: Path, boot_id: str = "") -> Hello:
    """The first message of a client that expects the engine of this release; its manifest says which.

    Raises:
        OSError, ValueError: the manifest can't be read.
    """
    engine = json.loads((release / "manifest.json").read_bytes()).get("engine", {})
    return Hello(PROTOCOL_VERSION, engine.get("hash", ""), boot_id)


def unavailable(request_id: int) -> End:
    """The end of a request that the engine can't answer because it does not run."""
    return End(request_id, "error", "engine_unavailable", "the engine process does not answer; it is started again")


async def read_stats(state_dir: Path, hello: Hello) -> Stats:
    """Ask the engine once what it does.

    Raises:
        OSError: it does not answer, or it is another engine.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(sock=connect(state_dir))
        try:
            writer.write(encode(hello) + encode(StatsRequest()))
            welcome, stats = await read_engine_message(reader), None
            if isinstance(welcome, Welcome):
                stats = await read_engine_message(reader)
        finally:
            writer.close()
    except (asyncio.IncompleteReadError, ProtocolError) as error:
        raise OSError(f"the engine process does not answer: {error}") from None
    if isinstance(welcome, Refused):
        raise OSError(welcome.reason)
    if not isinstance(welcome, Welcome) or not isinstance(stats, Stats):
        raise OSError("the engine process does not answer as expected")
    return stats
