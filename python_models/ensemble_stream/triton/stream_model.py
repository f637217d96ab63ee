"""The `ensemble_stream` model: one request in, its answer out in pieces; every row is in the ledger first.

Triton's thread calls `execute`. Requests are admitted there, or by a `FairWorker` while several tenants send; whoever
admits one sends it to the engine process. One thread receives from the engine process and sends all responses, because
Triton's senders may be used by one thread only. Another one closes the rows of streams that ended, many in a
transaction, so that the disk holds up no other stream.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from engine_process.messages import Generate
from engine_process.triton.tensors import RequestError, read_requests
from ensemble_stream.stream import Stream
from ensemble_stream.stream_engine import TENSORRT_LLM_ADDRESS, create_stream_engine
from ensemble_stream.triton.chunk_tensors import ChunkTensors
from ensemble_stream.triton.closing import StreamCloser
from ensemble_stream.triton.open_streams import OpenStream, OpenStreams
from ensemble_stream.triton.stream_response import StreamResponse
from llm_policy.errors import Code, PolicyError, Unavailable, create_error
from llm_policy.steps.column import Column
from llm_policy.steps.ledger_writer import LedgerWriter, boot_id
from llm_policy.steps.postprocess import Postprocess
from llm_policy.text.incremental_detokenizer import IncrementalDetokenizer
from llm_policy.text.tokenizer import Tokenizer
from llm_policy.triton.adapter import open_release, state_directory
from llm_policy.triton.admission import Admission, PendingRequest
from llm_policy.triton.arrival import Arrival
from llm_policy.triton.error_responses import as_policy_error
from llm_policy.triton.fair_worker import FairWorker
from llm_policy.triton.tensor_cache import TensorCache

_CONNECT_TIMEOUT_S = 10


class StreamModel:
    """The `ensemble_stream` model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the release and connect to the engine. Any exception keeps the model from loading."""
        release, state_dir = open_release(), state_directory()
        manifest = release.manifest
        self._tokenizer = Tokenizer.load(release.tokenizer_dir)
        self._ledger = LedgerWriter(state_dir, manifest, boot_id())
        self._admission = Admission(
            release,
            state_dir,
            self._ledger,
            self._tokenizer,
            streams=True,
            waits_for_cache=TENSORRT_LLM_ADDRESS not in os.environ,  # with that backend there is no preprocess
        )
        self._tensors, self._chunk_tensors = TensorCache(), ChunkTensors()
        self._client = create_stream_engine(os.environ, state_dir, manifest, boot_id(), pb_utils.Logger.log_error)
        postprocess = Postprocess(manifest, self._tokenizer)
        closer = StreamCloser(postprocess, self._ledger, self._admission.log)
        self._streams = OpenStreams(self._client, postprocess, closer, self._ledger)
        self._ledger.open()
        self._worker = FairWorker(self._admit, "stream-admission", Arrival.displaced)
        gc.freeze()  # everything loaded so far stays, so garbage collections can skip it
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._streams.run(),), name="streams", daemon=True
        )
        self._thread.start()
        self._streams.connected.wait(_CONNECT_TIMEOUT_S)

    def execute(self, requests: list[Any]) -> None:
        """Admit each request in its tenant's turn; all responses come later."""
        arrivals = [self._admission.read(request) for request in requests]
        self._worker.handle([self._admission.tenant_of(arrival) for arrival in arrivals], arrivals)

    def _admit(self, arrivals: Sequence[Arrival]) -> list[None]:
        began_ns = time.perf_counter_ns()
        batch = self._admission.admit(arrivals)
        for pending in batch:
            arrival = pending.arrival
            response = StreamResponse(arrival.sender, arrival.outputs, self._tensors, self._chunk_tensors)
            self._begin(pending, response, arrival.timeout_us)
        self._admission.log.flush()
        self._admission.observe_overhead("ensemble_stream", batch, began_ns)
        return [None] * len(batch)

    def finalize(self) -> None:
        """End what is open, and stop the guide compiler and its sandbox."""
        self._worker.close()
        self._loop.call_soon_threadsafe(self._streams.stop)
        self._thread.join(timeout=10)
        self._admission.close()

    def _begin(self, pending: PendingRequest, response: StreamResponse, timeout_us: int) -> None:
        if pending.error is not None:
            self._admission.add_to_log(pending)
            self._fail(pending, response, pending.error)
            return
        try:
            if not pending.missing_guides:
                self._generate(pending, response, timeout_us)
                return
            self._admission.compile_guides(
                pending, lambda error: self._begin_later(pending, response, timeout_us, error)
            )
        except BaseException as error:
            self._reject(pending, response, error)

    def _begin_later(
        self, pending: PendingRequest, response: StreamResponse, timeout_us: int, error: PolicyError | None
    ) -> None:
        """Runs on the guide compiler's thread, once the guide is compiled or rejected."""
        try:
            if error is not None:
                raise error
            self._generate(pending, response, timeout_us)
        except BaseException as exception:
            self._reject(pending, response, exception)
            self._admission.log.flush()

    def _generate(self, pending: PendingRequest, response: StreamResponse, timeout_us: int) -> None:
        """Send an admitted request to the engine."""
        (record,), (row,) = pending.records, pending.engine_rows
        request = self._engine_request(pending)
        request.tenant, request.timeout_us, request.stream = record.tenant, timeout_us, True
        detokenizer = IncrementalDetokenizer(self._tokenizer.token_bytes, record.stop_words)
        prompt_text = self._tokenizer.decode(request.prompt_token_ids) if record.includes_prompt else ""
        stream = Stream(record, request, detokenizer, prompt_text)
        self._streams.start(OpenStream(stream, response, row.streams))

    def _engine_request(self, pending: PendingRequest) -> Generate:
        welcome = self._client.welcome
        if welcome is None:
            raise Unavailable(Code.ENGINE_UNAVAILABLE, "the engine process does not answer; it is started again")
        arrays = {
            name: value.array() if isinstance(value, Column) else value
            for name, value in self._admission.pack(pending).items()
        }
        try:
            (request,) = read_requests(arrays, welcome.capabilities)
        except RequestError as error:
            raise create_error(Code(error.code), str(error)) from None
        return request

    def _reject(self, pending: PendingRequest, response: StreamResponse, error: BaseException) -> None:
        self._fail(pending, response, self._admission.reject(pending, as_policy_error(error)))

    def _fail(self, pending: PendingRequest, response: StreamResponse, error: PolicyError) -> None:
        self._streams.fail(pending.records[0].tenant, response, error)
