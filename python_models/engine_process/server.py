"""The engine's side of the protocol: serves one engine to all connections on its socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from engine_process.completion import Completion
from engine_process.engine import Clocks, Engine, EngineDied, EngineFailure
from engine_process.messages import (
    PROTOCOL_VERSION,
    Abort,
    Capabilities,
    End,
    Generate,
    Hello,
    ProtocolError,
    Reason,
    Refused,
    Started,
    Stats,
    StatsRequest,
    Tokens,
    Welcome,
    encode,
    read_client_message,
    write_ids,
    write_log_probs,
)
from engine_process.request_queue import RequestQueue
from engine_process.usage_journal import FLUSH_S, UsageJournal

_NO_CLOCKS = Clocks(0, 0, 0)
_DRAINING = ("draining", "the engine is stopping")
_END_TIMEOUT_S = 5
_INTERNAL = ("internal", "the engine failed")


@dataclass(frozen=True)
class EngineIdentity:
    """Which engine answers: the manifest's hash and quantisation, and the kind of engine that runs it."""

    kind: str
    engine_hash: str
    quantisation: str
    started_at: float = field(default_factory=time.time)


@dataclass(eq=False)
class _Request:
    """A request in flight; `ending` says why its task was cancelled."""

    message: Generate
    boot_id: str
    send: Callable[..., None]
    arrival_ns: int
    task: asyncio.Task[None] | None = None
    ending: Reason = "cancelled"
    is_started: bool = False  # in the engine, as far as it is known
    is_answered: bool = False
    clocks: Clocks = _NO_CLOCKS
    collected: Tokens = field(init=False)  # what a client that does not stream gets at the end

    def __post_init__(self) -> None:
        self.collected = Tokens(self.message.id, b"", b"")

    @property
    def reason_to_end(self) -> tuple[Reason, str, str]:
        """Why its task was cancelled, with the code and the text of an error."""
        return (self.ending, *_DRAINING) if self.ending == "error" else (self.ending, "", "")

    def end(self, reason: Reason) -> None:
        """Stop its task, which then sends `End`."""
        self.ending = reason
        if self.task is not None:
            self.task.cancel()


class EngineServer:
    """Serves `engine`, which is loaded. Everything runs on one asyncio loop.

    `max_answer_s` limits how long a request may take from its arrival; then it ends with the tokens that it has.
    """

    def __init__(
        self,
        engine: Engine,
        identity: EngineIdentity,
        capabilities: Capabilities,
        *,
        max_waiting: int,
        max_answer_s: float,
        journal: UsageJournal | None,
        log: Callable[[str], None],
    ) -> None:
        self._engine, self._identity, self._capabilities = engine, identity, capabilities
        self._max_answer_s, self._journal, self._log = max_answer_s, journal, log
        # An engine that shares its slots itself gets every request at once.
        max_running = 1 << 30 if engine.schedules_tenants else capabilities.max_batch_size
        self._queue = RequestQueue(max_running, max_waiting)
        self._requests: set[_Request] = set()
        self._boot_ids: Counter[str] = Counter()  # of the connected clients
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[Any]] = {}
        self._last_step_ns = time.monotonic_ns()
        self._stopping = asyncio.Event()
        self.has_died = False

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections until `stop` is called or the engine dies; then end every request."""
        server = await asyncio.start_unix_server(self._serve_connection, sock=listener)
        flushing = asyncio.create_task(self._flush_journal())
        await self._stopping.wait()
        server.close()
        flushing.cancel()
        for request in self._requests:
            request.end("error")
        if tasks := [request.task for request in self._requests if request.task is not None]:
            await asyncio.wait(tasks, timeout=_END_TIMEOUT_S)
        for writer in self._connections:
            writer.close()  # its handler then ends
        if self._connections:
            await asyncio.wait([*self._connections.values()], timeout=_END_TIMEOUT_S)
        if self._journal is not None:
            self._journal.flush()
            self._journal.close()

    def stop(self) -> None:
        """End `serve`."""
        self._stopping.set()

    async def _flush_journal(self) -> None:
        while self._journal is not None:
            await asyncio.sleep(FLUSH_S)
            if self._journal.is_pending:
                await asyncio.to_thread(self._journal.flush)  # the disk must not hold up the engine

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(*messages: object) -> None:
            if not writer.is_closing():
                writer.write(b"".join(encode(message) for message in messages))  # type: ignore[arg-type]

        if (handler := asyncio.current_task()) is not None:
            self._connections[writer] = handler
        requests: dict[int, _Request] = {}
        boot_id: str | None = None
        try:
            boot_id = await self._greet(reader, send)
            if boot_id is not None:
                self._boot_ids[boot_id] += 1
            while boot_id is not None:
                self._handle(await read_client_message(reader), requests, send, boot_id)
                await writer.drain()
        except ProtocolError as error:
            self._log(f"a connection is closed: {error}")
        except (asyncio.IncompleteReadError, OSError):
            pass  # the client closed the connection
        finally:
            if boot_id is not None:
                self._boot_ids[boot_id] -= 1
            for request in requests.values():
                request.end("cancelled")
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            del self._connections[writer]

    async def _greet(self, reader: asyncio.StreamReader, send: Callable[..., None]) -> str | None:
        """Exchange the first messages; the client's boot id, or None if it is refused."""
        hello = await read_client_message(reader)
        if not isinstance(hello, Hello):
            raise ProtocolError(f"the first message is {type(hello).__name__}, expected Hello")
        identity = self._identity
        if hello.version != PROTOCOL_VERSION:
            send(Refused(f"protocol version {hello.version}, this engine process speaks {PROTOCOL_VERSION}"))
            return None
        if hello.engine_hash != identity.engine_hash:
            send(Refused(f"the engine's hash is {identity.engine_hash}, not {hello.engine_hash}"))
            return None
        send(
            Welcome(
                PROTOCOL_VERSION,
                identity.engine_hash,
                identity.quantisation,
                identity.kind,
                os.getpid(),
                identity.started_at,
                self._capabilities,
            )
        )
        return hello.boot_id

    def _handle(self, message: object, requests: dict[int, _Request], send: Callable[..., None], boot_id: str) -> None:
        if isinstance(message, Generate):
            self._start(_Request(message, boot_id, send, time.monotonic_ns()), requests)
        elif isinstance(message, Abort):
            if message.id in requests:
                requests[message.id].end("cancelled")
        elif isinstance(message, StatsRequest):
            send(self._stats())
        else:
            raise ProtocolError(f"{type(message).__name__} comes too late")

    def _stats(self) -> Stats:
        num_running = sum(request.is_started for request in self._requests)
        last_ns = max(self._last_step_ns, self._engine.last_step_ns())
        age_s = (time.monotonic_ns() - last_ns) / 1e9 if self._requests else 0.0
        num_streaming = sum(request.message.stream for request in self._requests)
        num_waiting = len(self._requests) - num_running
        return Stats(num_running, num_waiting, age_s, [*self._boot_ids.elements()], num_streaming)

    def _start(self, request: _Request, requests: dict[int, _Request]) -> None:
        """Start a request of the connection whose requests in flight are `requests`."""
        if not self._requests:
            self._last_step_ns = time.monotonic_ns()  # nothing was to be done before
        requests[request.message.id] = request
        self._requests.add(request)
        if self._journal is not None:
            self._journal.note(request.boot_id, request.message.ledger_id, 0)
        request.task = asyncio.create_task(self._run(request))
        if self._stopping.is_set():
            request.end("error")
        timeout_s = request.message.timeout_us / 1e6 or self._max_answer_s
        deadline = asyncio.get_running_loop().call_later(min(timeout_s, self._max_answer_s), request.end, "deadline")

        def finish(_: object) -> None:
            deadline.cancel()
            if not request.is_answered:  # its task was cancelled before it began
                nothing = Completion(request.message, finds_stops=False)
                self._send_end(request, nothing, End(request.message.id, *request.reason_to_end))
            self._requests.discard(request)
            requests.pop(request.message.id, None)

        request.task.add_done_callback(finish)

    async def _run(self, request: _Request) -> None:
        """Generate one completion; sends exactly one `End`, whatever happens."""
        message = request.message
        completion = Completion(message, finds_stops=not self._engine.handles_sequences)
        reason: Reason = "error"
        code, text = _INTERNAL
        try:
            async with self._queue.slot(message.tenant):
                await self._generate(request, completion)
            if completion.finish_reason is not None:
                reason, code, text = completion.finish_reason, "", ""
        except asyncio.CancelledError:
            reason, code, text = request.reason_to_end
        except EngineFailure as failure:
            code, text = failure.code, failure.detail
        except EngineDied as error:
            self._log(f"the engine died: {error}")
            self.has_died = True
            code, text = "engine_unavailable", "the engine died; it is started again"
            self.stop()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._log(
                f"a request failed: {type(error).__name__} at {where.filename}:{where.lineno}: {str(error)[:200]}"
            )
        self._send_end(request, completion, End(message.id, reason, code, text))

    async def _generate(self, request: _Request, completion: Completion) -> None:
        message = request.message
        async with contextlib.aclosing(self._engine.generate(message, request.arrival_ns)) as steps:
            async for step in steps:
                self._last_step_ns = time.monotonic_ns()
                request.is_started = True
                self._note_clocks(request, step.clocks)
                token_ids, log_probs = completion.add(step)
                ids = write_ids(token_ids)
                logs = write_log_probs(log_probs) if message.log_probs else b""
                if message.stream:
                    request.send(Tokens(message.id, ids, logs))
                else:
                    request.collected.ids += ids
                    request.collected.log_probs += logs
                if self._journal is not None:
                    self._journal.note(request.boot_id, message.ledger_id, completion.num_tokens)
                if completion.finish_reason:
                    return

    @staticmethod
    def _note_clocks(request: _Request, clocks: Clocks | None) -> None:
        if clocks is None:
            return
        if clocks.first_scheduled_ns and not request.clocks.first_scheduled_ns and request.message.stream:
            queue_delay_us = max(0, clocks.first_scheduled_ns - request.arrival_ns) // 1_000
            request.send(Started(request.message.id, queue_delay_us))
        request.clocks = clocks

    def _send_end(self, request: _Request, completion: Completion, end: End) -> None:
        request.is_answered = True
        if self._journal is not None:
            self._journal.note(request.boot_id, request.message.ledger_id, completion.num_tokens, has_ended=True)
        end.num_input_tokens = request.message.num_input_tokens
        end.num_output_tokens = completion.num_tokens
        end.cum_log_prob = completion.cum_log_prob
        end.arrival_ns = request.arrival_ns
        end.first_scheduled_ns, end.first_token_ns, end.last_token_ns = request.clocks
        if end.reason == "deadline":  # the client waited until now; so do clocks that the request never reached
            now = time.monotonic_ns()
            end.first_scheduled_ns, end.first_token_ns = end.first_scheduled_ns or now, end.first_token_ns or now
            end.last_token_ns = now
        request.send(*([request.collected] if request.collected.ids else []), end)
