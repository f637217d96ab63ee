"""The streams that the engine works on: takes their tokens, and sends their responses in turn.

Everything but `start` and `fail` runs on one asyncio loop. A response is sent for one stream after the other, and
tokens that come meanwhile join the chunk that their stream waits to send: under load chunks grow, and no queue does.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import triton_python_backend_utils as pb_utils

from engine_process.messages import End, Tokens
from ensemble_stream.conclusion import Conclusion
from ensemble_stream.stream import Stream
from ensemble_stream.stream_engine import StreamEngine
from ensemble_stream.triton.closing import StreamCloser
from ensemble_stream.triton.stream_response import StreamResponse
from llm_policy.errors import Code, PolicyError
from llm_policy.metrics.pending_observations import PendingObservations
from llm_policy.metrics.policy_metrics import PER_TOKEN_US
from llm_policy.steps.ledger_writer import LedgerWriter
from llm_policy.steps.postprocess import Postprocess
from llm_policy.triton.error_responses import as_policy_error, internal_fault
from llm_policy.triton.tenant_queues import TenantQueues

CANCEL_POLL_S = 0.1
_CONNECT_POLL_S = 0.02
_ERROR_PAUSE_S = 0.1
_SEND_S = 0.001  # then the engine's messages are read: a turn of the loop costs a tenth of a response
_MAX_CLOSED_AT_ONCE = 2  # another tenant's stream waits for them


class OpenStream:
    """A stream with its responses. `sends_chunks` is false if the client wants one response."""

    def __init__(self, stream: Stream, response: StreamResponse, sends_chunks: bool) -> None:
        self.stream, self.response, self.sends_chunks = stream, response, sends_chunks
        self.is_queued = False  # it waits for its turn to send a chunk
        self.is_cancelled = False


class OpenStreams:
    """All streams of one model instance."""

    def __init__(
        self, client: StreamEngine, postprocess: Postprocess, closer: StreamCloser, ledger: LedgerWriter
    ) -> None:
        self._client, self._postprocess, self._closer, self._ledger = client, postprocess, closer, ledger
        self._open: set[OpenStream] = set()
        self._to_send: TenantQueues[Callable[[], None]] = TenantQueues()
        self._to_close: TenantQueues[OpenStream] = TenantQueues()
        self._num_closing = 0
        self._inter_token_us = PendingObservations(PER_TOKEN_US)
        self._is_sending = False
        self._wake_closer = asyncio.Event()
        self._stopping = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="stream-closer")
        self.connected = threading.Event()
        """Set once there is a connection to the engine."""

    async def run(self) -> None:
        """Serve until `stop` is called; then end what is open."""
        self._loop = asyncio.get_running_loop()
        works = (self._client.run, self._connect, self._close, self._poll_cancellation)
        tasks = [asyncio.create_task(_keep_running(work)) for work in works]
        await self._stopping.wait()
        for open_stream in list(self._open):
            self._client.abort(open_stream.stream.request.id)
            self.on_end(open_stream, _draining())
        while self._to_close or self._num_closing or self._to_send:
            await asyncio.sleep(_CONNECT_POLL_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._executor.shutdown()

    def stop(self) -> None:
        """End `run`."""
        self._stopping.set()

    def start(self, open_stream: OpenStream) -> None:
        """Send the request to the engine. Any thread may call this."""
        self._open.add(open_stream)
        if self._stopping.is_set():
            self._loop.call_soon_threadsafe(self.on_end, open_stream, _draining())
        else:
            self._client.generate(open_stream.stream.request, _Listener(self, open_stream))

    def fail(self, tenant: str, response: StreamResponse, error: PolicyError) -> None:
        """Answer a request that never became a stream. Any thread may call this."""
        self._loop.call_soon_threadsafe(self._send, tenant, lambda: response.send_error(error))

    def on_tokens(self, open_stream: OpenStream, tokens: Tokens) -> None:
        """Take new tokens; the stream waits for its turn to send their text."""
        per_token_us = open_stream.stream.add(tokens)
        if per_token_us and not open_stream.stream.record.is_canary:
            self._inter_token_us.add(per_token_us)
        if open_stream.sends_chunks and not open_stream.is_queued and open_stream.stream.has_new_tokens:
            open_stream.is_queued = True
            self._send(open_stream.stream.record.tenant, lambda: self._send_chunk(open_stream))

    def on_end(self, open_stream: OpenStream, end: End) -> None:
        """Close the row, once; the last response follows."""
        if open_stream.stream.end is None:
            open_stream.stream.end = end
            self._to_close.add(open_stream.stream.record.tenant, open_stream)
            self._wake_closer.set()

    async def _connect(self) -> None:
        while self._client.welcome is None:
            await asyncio.sleep(_CONNECT_POLL_S)
        self.connected.set()

    def _send(self, tenant: str, send: Callable[[], None]) -> None:
        self._to_send.add(tenant, send)
        if not self._is_sending:
            self._is_sending = True
            self._loop.call_soon(self._send_in_turn)

    def _send_in_turn(self) -> None:
        began_s = time.monotonic()
        try:
            while self._to_send and time.monotonic() - began_s < _SEND_S:
                (send,) = self._to_send.take(1)
                self._try(send)
        finally:  # whatever happens: a bug must not leave every later stream without an answer
            self._is_sending = bool(self._to_send)
            if self._is_sending:
                self._loop.call_soon(self._send_in_turn)  # behind the engine's messages that came meanwhile

    def _send_chunk(self, open_stream: OpenStream) -> None:
        open_stream.is_queued = False
        if open_stream.stream.end is not None or open_stream.is_cancelled:
            return
        try:
            chunk = open_stream.stream.take_chunk()
        except Exception as error:  # a token that is none
            pb_utils.Logger.log_error(f"tokens can't be decoded: {type(error).__name__}")
            self._client.abort(open_stream.stream.request.id)
            self.on_end(open_stream, End(0, "error", Code.INTERNAL.value, "the tokens could not be decoded"))
            return
        if chunk.text or chunk.log_probs:
            open_stream.response.send_chunk(chunk)

    async def _close(self) -> None:
        while True:
            await self._wake_closer.wait()
            self._wake_closer.clear()
            while batch := self._to_close.take(_MAX_CLOSED_AT_ONCE):
                self._num_closing = len(batch)
                await self._close_batch(batch)
                self._num_closing = 0

    async def _close_batch(self, batch: list[OpenStream]) -> None:
        streams = [open_stream.stream for open_stream in batch]
        try:
            conclusions = await asyncio.get_running_loop().run_in_executor(self._executor, self._closer.close, streams)
        except Exception as exception:
            error = as_policy_error(exception)
            conclusions = [Conclusion(stream.record, None, error) for stream in streams]
        self._write_observations()  # the metrics have all of a stream once its client has its end
        for open_stream, conclusion in zip(batch, conclusions, strict=True):
            self._send(conclusion.record.tenant, partial(self._send_last, open_stream, conclusion))

    def _send_last(self, open_stream: OpenStream, conclusion: Conclusion) -> None:
        stream, response = open_stream.stream, open_stream.response
        self._open.discard(open_stream)
        if conclusion.error is not None:
            response.send_error(conclusion.error)
        elif conclusion.answer is not None and stream.end is not None:
            response.send_last(
                self._postprocess, conclusion.answer, stream.take_rest(conclusion.answer.text), stream.end
            )

    async def _poll_cancellation(self) -> None:
        while True:
            await asyncio.sleep(CANCEL_POLL_S)
            self._write_observations()
            for open_stream in list(self._open):
                is_sent = open_stream.stream.request.id != 0  # nothing can be cancelled before
                if is_sent and open_stream.stream.end is None and not open_stream.is_cancelled:
                    if open_stream.response.is_cancelled():
                        open_stream.is_cancelled = True
                        self._client.cancel(open_stream.stream.request.id)
                    await asyncio.sleep(0)

    def _write_observations(self) -> None:
        if metrics := self._ledger.metrics:
            self._inter_token_us.write(metrics.inter_token_latency_us)

    @staticmethod
    def _try(send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:
            pb_utils.Logger.log_error(f"a response can't be sent: {type(error).__name__}")


async def _keep_running(work: Callable[[], Awaitable[None]]) -> None:
    """Run one part for ever: a bug in it must not leave every later stream without an answer."""
    while True:
        try:
            return await work()
        except Exception as error:  # noqa: PERF203 - it is rare
            internal_fault(error)
            await asyncio.sleep(_ERROR_PAUSE_S)


def _draining() -> End:
    return End(0, "error", Code.DRAINING.value, "this server is shutting down")


class _Listener:
    """Receives the engine's messages about one stream."""

    def __init__(self, streams: OpenStreams, open_stream: OpenStream) -> None:
        self._streams, self._open_stream = streams, open_stream

    def on_tokens(self, tokens: Tokens) -> None:
        self._streams.on_tokens(self._open_stream, tokens)

    def on_end(self, end: End) -> None:
        self._streams.on_end(self._open_stream, end)
