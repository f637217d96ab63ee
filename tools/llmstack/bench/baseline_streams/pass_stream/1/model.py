"""Streams the engine's tokens as they come, one response for each message, without policy and ledger."""

import asyncio
import threading
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from engine_process.client import EngineClient
from engine_process.messages import PROTOCOL_VERSION, End, Generate, Hello, Tokens, read_ids, write_ids
from llm_policy.triton.adapter import open_release, state_directory

# Bytes of prompt per token, about, in the benchmark's English text.
BYTES_PER_TOKEN = 3


class TritonPythonModel:
    """Triton requires a class of this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Connect to the engine process."""
        hello = Hello(PROTOCOL_VERSION, open_release().manifest.engine.hash)
        self._client = EngineClient(state_directory(), hello, pb_utils.Logger.log_error)
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._client.run())
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def execute(self, requests: list[Any]) -> None:
        """Send each request to the engine; all responses come later, from the client's thread."""
        for request in requests:
            prompt = write_ids([100] * (len(_first(request, "text_input")) // BYTES_PER_TOKEN))
            generate = Generate(0, prompt, int(_first(request, "max_tokens")), stream=True)
            self._loop.call_soon_threadsafe(self._client.generate, generate, Responses(request.get_response_sender()))

    def finalize(self) -> None:
        """Stop the client's thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)


class Responses:
    """Passes what comes from the engine to the client that waits for it."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._num_tokens = 0

    def on_tokens(self, tokens: Tokens) -> None:
        """Send new tokens."""
        ids = read_ids(tokens.ids)
        self._num_tokens += len(ids)
        self._sender.send(self._build(" ".join(map(str, ids)).encode(), is_last=False))

    def on_end(self, end: End) -> None:
        """Send the last response."""
        failure = pb_utils.InferenceResponse(error=pb_utils.TritonError(end.text)) if end.code else None
        response = failure or self._build(b"", is_last=True)
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _build(self, text: bytes, *, is_last: bool) -> Any:
        arrays = {
            "text_output": np.array([[text]], np.object_),
            "num_output_tokens": np.array([[self._num_tokens]], np.int32),
            "is_last": np.array([[is_last]]),
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in arrays.items()])


def _first(request: Any, name: str) -> Any:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0, 0]
