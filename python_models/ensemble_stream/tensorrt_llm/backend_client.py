"""A client of the decoupled model `tensorrt_llm` in the same server, over gRPC on the loopback interface.

Triton's own calls between models are no choice: several threads of a stub that make them crash the server. A gRPC
stream per request also has what an abort needs: the backend finds a stream that was cancelled within its
`cancellation_check_period_ms`. Everything runs on one asyncio loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import InferResult
from tritonclient.grpc.aio import InferenceServerClient

from engine_process.client import Listener
from engine_process.messages import End, Generate, Reason, Welcome
from engine_process.usage_journal import FLUSH_S, UsageJournal
from ensemble_stream.tensorrt_llm.backend_stream import BackendStream
from ensemble_stream.tensorrt_llm.request_tensors import OUTPUTS, infer_inputs, request_arrays, requested_outputs

MODEL = "tensorrt_llm"
_CHANNEL = (
    ("grpc.enable_http_proxy", 0),  # a proxy from the environment is meant for external hosts
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
# Texts of Triton's own errors, from which alone a stream's client can tell what happened.
_QUEUE_IS_FULL, _NOT_LOADED = ("exceeds maximum queue size",), ("unknown model", "is not ready", "not found")


class _BackendError(Exception):
    """A response of the backend, or of Triton in its place, that is an error."""


@dataclass(eq=False)
class _Call:
    """One request in flight; `ending` says why its task was cancelled. Without a listener nobody waits for it."""

    request: Generate
    stream: BackendStream
    listener: Listener | None
    task: asyncio.Task[End] | None = None
    ending: Reason = "cancelled"

    def end(self, reason: Reason) -> None:
        """Cancel the request; its end follows."""
        self.ending = reason
        if self.task is not None:
            self.task.cancel()


class BackendClient:
    """Sends requests to `tensorrt_llm` at `address` (`host:port`); its methods are those of `EngineClient`.

    `max_answer_s` limits how long a request may take. `journal` gets the number of tokens of each row of the server
    start `boot_id`, so that a row pays for them if this process dies.
    """

    def __init__(
        self,
        address: str,
        welcome: Welcome,
        max_answer_s: float,
        boot_id: str,
        journal: UsageJournal,
        log: Callable[[str], None],
    ) -> None:
        self.welcome: Welcome | None = welcome
        """What the manifest says of the engine; always known: Triton opens its ports once `tensorrt_llm` is loaded."""
        self._address, self._max_answer_s, self._boot_id = address, max_answer_s, boot_id
        self._journal, self._log = journal, log
        self._client: InferenceServerClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: dict[int, _Call] = {}
        self._last_id = 0

    async def run(self) -> None:
        """Keep the connection and write the journal until the task is cancelled."""
        self._loop = asyncio.get_running_loop()
        self._client = InferenceServerClient(self._address, channel_args=_CHANNEL)
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                if self._journal.is_pending:
                    await asyncio.to_thread(self._journal.flush)  # the disk must not hold up the streams
        finally:
            for call in self._calls.values():
                call.end("cancelled")
            client, self._client = self._client, None
            await client.close()
            self._journal.flush()
            self._journal.close()

    def generate(self, request: Generate, listener: Listener) -> None:
        """Send a request, which gets an id. Any thread may call this."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin, request, listener)

    def _begin(self, request: Generate, listener: Listener) -> None:
        self._last_id += 1
        request.id = self._last_id
        call = _Call(request, BackendStream(request), listener)
        self._calls[request.id] = call
        call.task = asyncio.create_task(self._serve(call))
        timeout_s = min(request.timeout_us / 1e6 or self._max_answer_s, self._max_answer_s)
        deadline = asyncio.get_running_loop().call_later(timeout_s, call.end, "deadline")

        def finish(task: asyncio.Task[End]) -> None:
            deadline.cancel()
            self._calls.pop(request.id, None)
            end = call.stream.end(call.ending) if task.cancelled() else task.result()
            if call.listener is not None:
                call.listener.on_end(end)

        call.task.add_done_callback(finish)

    def abort(self, request_id: int) -> None:
        """Say that nobody waits for this request any more; its listener is not called again."""
        if (call := self._calls.get(request_id)) is not None:
            call.listener = None
            call.end("cancelled")

    def cancel(self, request_id: int) -> None:
        """Say that nobody waits for this request any more; its listener still receives its end."""
        if (call := self._calls.get(request_id)) is not None:
            call.end("cancelled")

    async def _serve(self, call: _Call) -> End:
        """Read one request's responses; returns its end, whatever happens."""
        try:
            await self._read(call)
        except (grpc.RpcError, ConnectionError):  # the server is stopping
            return call.stream.end("error", "engine_unavailable", f"{MODEL} does not answer")
        except _BackendError as error:
            return call.stream.end("error", *self._describe(str(error)))
        except Exception as error:
            self._log(f"a stream failed: {type(error).__name__}: {str(error)[:200]}")
            return call.stream.end("error", "internal", "the engine failed")
        return call.stream.finish()

    async def _read(self, call: _Call) -> None:
        if self._client is None:
            raise ConnectionError
        responses = self._client.stream_infer(_one_request(call.request))
        try:
            async for result, error in responses:
                if error is not None:
                    raise _BackendError(error.message())
                self._take(call, result)
        finally:
            responses.cancel()

    def _take(self, call: _Call, result: InferResult) -> None:
        outputs = {name: array for name in OUTPUTS if (array := result.as_numpy(name)) is not None}
        if "output_ids" not in outputs:  # the end of a stream, without tensors
            return
        tokens = call.stream.add(outputs)
        self._journal.note(self._boot_id, call.request.ledger_id, call.stream.num_tokens)
        if tokens.ids and call.listener is not None:
            call.listener.on_tokens(tokens)

    def _describe(self, text: str) -> tuple[str, str]:
        """The code and the text of an error. Its own text may quote the request, so it goes to the log alone."""
        lower = text.lower()
        if any(part in lower for part in _QUEUE_IS_FULL):
            return "overloaded", f"the queue of {MODEL} is full"
        self._log(f"{MODEL} fails a stream: {text[:200]}")
        if any(part in lower for part in _NOT_LOADED):
            return "engine_unavailable", f"{MODEL} is not loaded"
        return "internal", "the engine failed"


async def _one_request(request: Generate) -> AsyncIterator[dict[str, Any]]:
    yield {"model_name": MODEL, "inputs": infer_inputs(request_arrays(request)), "outputs": requested_outputs()}
