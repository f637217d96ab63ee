"""The `tensorrt_llm` model in front of an engine process.

Triton's thread calls `execute`, which reads the inputs and sends them to the engine process. One other thread receives
from it, polls for cancellation and sends the responses.
"""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from engine_process.client import EngineClient, release_hello, unavailable
from engine_process.triton.error_response import error_response
from engine_process.triton.pending_response import PendingResponse, send_only
from engine_process.triton.tensors import RequestError, read_requests, read_tenant

RELEASE_DIR, STATE_DIR, BOOT_ID = "LLMSTACK_RELEASE_DIR", "LLMSTACK_STATE_DIR", "LLMSTACK_BOOT_ID"
DEFAULT_RELEASE_DIR = "artifacts/current"
CANCEL_POLL_S = 0.05
_CONNECT_TIMEOUT_S = 10


class EngineModel:
    """`tensorrt_llm` as a client of the engine process in `$LLMSTACK_STATE_DIR`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Connect to the engine. A request that comes while there is no connection is answered with an error."""
        release = Path(os.environ.get(RELEASE_DIR, DEFAULT_RELEASE_DIR))
        hello = release_hello(release, os.environ.get(BOOT_ID, ""))
        self._client = EngineClient(Path(os.environ[STATE_DIR]), hello, pb_utils.Logger.log_error)
        self._pending: set[PendingResponse] = set()
        self._loop = asyncio.new_event_loop()
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), name="engine-client")
        self._thread.daemon = True
        self._thread.start()
        self._connected.wait(_CONNECT_TIMEOUT_S)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Send each request to the engine. All responses come later, from the client's thread, errors too.

        A response that is returned while another thread sends one crashes tritonserver.
        """
        for request in requests:
            if (error := self._enqueue(request)) is not None:
                self._loop.call_soon_threadsafe(send_only, request.get_response_sender(), error)
        return [None] * len(requests)

    def finalize(self) -> None:
        """Fail what is pending and close the connection."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout=10)

    def _enqueue(self, request: Any) -> Any:
        """The error response to a request that can't be sent to the engine, else None."""
        welcome = self._client.welcome
        if welcome is None:
            end = unavailable(0)
            return error_response(end.code, end.text)
        try:
            arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            rows = read_requests(arrays, welcome.capabilities)
        except RequestError as error:
            return error_response(error.code, str(error))
        except Exception as error:
            pb_utils.Logger.log_error(f"can't read a request: {type(error).__name__}")
            return error_response("invalid_input", "the request's tensors can't be read")
        tenant, timeout_us = read_tenant(arrays), int(request.timeout())
        for row in rows:
            row.tenant, row.timeout_us = tenant, timeout_us
        response = PendingResponse(request, arrays, rows)
        response.start(self._client)
        self._loop.call_soon_threadsafe(self._add, response)
        return None

    # The methods below run on the client's thread.

    async def _run(self) -> None:
        self._stopping = asyncio.Event()
        tasks = [asyncio.create_task(work) for work in (self._client.run(), self._poll_cancellation(), self._connect())]
        await self._stopping.wait()
        for response in self._pending:
            if not response.is_answered:
                response.fail("draining", "the engine is stopping")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self) -> None:
        while self._client.welcome is None:
            await asyncio.sleep(0.02)
        self._connected.set()

    def _add(self, response: PendingResponse) -> None:
        if response.is_answered:
            response.abort_rows()  # those that were sent after another one had failed
        elif self._stopping.is_set():
            response.fail("draining", "the engine is stopping")
        else:
            self._pending.add(response)

    async def _poll_cancellation(self) -> None:
        while True:
            await asyncio.sleep(CANCEL_POLL_S)
            self._pending = {response for response in self._pending if not response.is_answered}
            for response in self._pending:
                if response.is_cancelled():
                    response.cancel()
