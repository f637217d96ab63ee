"""Sends the responses of one stream. Only one thread may use it: Triton's senders crash the server otherwise."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from engine_process.messages import End
from ensemble_stream.stream import Chunk
from ensemble_stream.triton.chunk_tensors import ChunkTensors, log_probs_array
from llm_policy.errors import PolicyError
from llm_policy.rules.row_input import Array
from llm_policy.steps.column import Column
from llm_policy.steps.postprocess import Answer, Postprocess
from llm_policy.triton.adapter import build_response
from llm_policy.triton.error_responses import error_response
from llm_policy.triton.tensor_cache import TensorCache

_CLOCKS = {
    "arrival_time_ns": "arrival_ns",
    "first_scheduled_time_ns": "first_scheduled_ns",
    "first_token_time_ns": "first_token_ns",
    "last_token_time_ns": "last_token_ns",
}


class StreamResponse:
    """The responses of one request: any number of chunks, then exactly one last response or error."""

    def __init__(
        self, sender: Any, requested: Collection[str], tensors: TensorCache, chunk_tensors: ChunkTensors
    ) -> None:
        self._sender, self._requested = sender, requested
        self._tensors, self._chunk_tensors = tensors, chunk_tensors
        self.is_last_sent = False

    def is_cancelled(self) -> bool:
        """Whether Triton says that the client cancelled the request or went away."""
        return bool(self._sender.is_cancelled())

    def send_chunk(self, chunk: Chunk) -> None:
        """Send new text."""
        self._send(pb_utils.InferenceResponse(self._chunk_tensors.create(chunk, self._requested)))

    def send_last(self, postprocess: Postprocess, answer: Answer, chunk: Chunk, end: End) -> None:
        """Send the rest of the text with everything that `ensemble` answers with."""
        columns: dict[str, Array | Column] = {
            **postprocess.pack([answer], self._requested),
            **{name: Column((getattr(end, field),), np.int64) for name, field in _CLOCKS.items()},
            "num_input_tokens": Column((end.num_input_tokens,), np.int32),
            "text_output": Column((chunk.text.encode(),), np.object_),
            "num_output_tokens": Column((end.num_output_tokens,), np.int32),
            "is_last": Column((True,), np.bool_),
        }
        if chunk.log_probs:
            columns["output_log_probs"] = log_probs_array(chunk)
        if chunk.log_probs or end.cum_log_prob:
            columns["cum_log_probs"] = np.array([[end.cum_log_prob]], np.float32)
        self._send(self._build(columns), is_last=True)

    def send_error(self, error: PolicyError) -> None:
        """Send an error as the last response."""
        self._send(error_response(error), is_last=True)

    def _build(self, columns: dict[str, Array | Column]) -> Any:
        return build_response(
            self._tensors, {name: value for name, value in columns.items() if name in self._requested}
        )

    def _send(self, response: Any, *, is_last: bool = False) -> None:
        self.is_last_sent = self.is_last_sent or is_last
        if is_last:
            self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        else:
            self._sender.send(response)
