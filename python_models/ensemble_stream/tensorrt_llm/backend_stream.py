"""What one decoupled request to TensorRT-LLM's backend has sent so far.

The facts below are those of its source (NVIDIA/TensorRT-LLM, triton_backend/inflight_batcher_llm); none was seen on the
real backend:

- Each response has the new tokens alone, never the prompt's: `output_ids` [1, 1, n], `sequence_length` [1, 1] is n.
- `num_output_tokens` counts this response's tokens, so it is not read.
- The last response has the rest of the tokens, possibly none. Triton closes the gRPC stream after it.
- The clocks are those of the monotonic clock. They may come with any response; the last ones count.
- `output_log_probs` [1, 1, m] holds those of all tokens so far or of the new ones.
- No response says why the answer ends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from engine_process.completion import Completion
from engine_process.engine import Step
from engine_process.messages import End, Generate, Reason, Tokens, write_ids, write_log_probs

_CLOCKS = {
    "arrival_time_ns": "arrival_ns",
    "first_scheduled_time_ns": "first_scheduled_ns",
    "first_token_time_ns": "first_token_ns",
    "last_token_time_ns": "last_token_ns",
}


class BackendStream:
    """Turns the responses to one request into the protocol's messages."""

    def __init__(self, request: Generate) -> None:
        self._request = request
        # The backend ends at stop words itself. Its output may have the end token, which is no part of an answer.
        self._completion = Completion(request, finds_stops=False)
        self._num_received = 0
        self._arrival_ns = time.monotonic_ns()
        self._first_ns = self._last_ns = 0  # when tokens came, in case the backend tells no clocks
        self._clocks: dict[str, int] = {}

    @property
    def num_tokens(self) -> int:
        """The number of completion tokens so far."""
        return self._completion.num_tokens

    def add(self, outputs: Mapping[str, npt.NDArray[Any]]) -> Tokens:
        """The new tokens of one response, possibly none."""
        self._note_clocks(outputs)
        ids = self._new_ids(outputs)
        token_ids, log_probs = self._completion.add(Step(ids, self._new_log_probs(outputs, len(ids))))
        self._num_received += len(ids)
        if token_ids:
            self._last_ns = time.monotonic_ns()
            self._first_ns = self._first_ns or self._last_ns
        logs = write_log_probs(log_probs) if self._request.log_probs else b""
        return Tokens(self._request.id, write_ids(token_ids), logs)

    def finish(self) -> End:
        """The end after the last response."""
        if self._num_received == 0 and not self._clocks:
            return self.end("error", "internal", "the engine gave no answer")
        is_cut = self.num_tokens >= self._request.max_tokens and self._completion.finish_reason is None
        return self.end("length" if is_cut else "stop")

    def end(self, reason: Reason, code: str = "", text: str = "") -> End:
        """The end for this reason, with what is known."""
        arrival_ns = self._clocks.get("arrival_ns", self._arrival_ns)
        now_ns = time.monotonic_ns() if reason == "deadline" else 0  # the client waited until now
        return End(
            self._request.id,
            reason,
            code,
            text,
            num_input_tokens=self._request.num_input_tokens,
            num_output_tokens=self.num_tokens,
            arrival_ns=arrival_ns,
            first_scheduled_ns=self._clocks.get("first_scheduled_ns") or self._first_scheduled_ns(arrival_ns, now_ns),
            first_token_ns=self._clocks.get("first_token_ns", self._first_ns) or now_ns,
            last_token_ns=now_ns or self._clocks.get("last_token_ns", self._last_ns),
            cum_log_prob=self._completion.cum_log_prob,
        )

    def _first_scheduled_ns(self, arrival_ns: int, now_ns: int) -> int:
        """Without the backend's clock a request that got tokens counts as scheduled at once: it is no breach."""
        return arrival_ns if self._first_ns else now_ns or arrival_ns

    @staticmethod
    def _new_ids(outputs: Mapping[str, npt.NDArray[Any]]) -> list[int]:
        ids, lengths = outputs["output_ids"].reshape(-1), outputs["sequence_length"].reshape(-1)
        return [int(token_id) for token_id in ids[: lengths[0]]]

    def _new_log_probs(self, outputs: Mapping[str, npt.NDArray[Any]], num_new: int) -> list[float] | None:
        if not self._request.log_probs or "output_log_probs" not in outputs:
            return None
        log_probs: list[float] = outputs["output_log_probs"].reshape(-1).tolist()
        has_all = len(log_probs) >= self._num_received + num_new
        new = log_probs[self._num_received :][:num_new] if has_all else log_probs[:num_new]
        return new + [0.0] * (num_new - len(new))

    def _note_clocks(self, outputs: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, field in _CLOCKS.items():
            if name in outputs and (value := int(outputs[name].reshape(-1)[0])) > 0:
                self._clocks[field] = value
