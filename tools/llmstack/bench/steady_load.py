"""A steady load on the portable engine: rows without a guide that never end, and room for one row beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from portable_engine.batcher import InFlightBatcher
from portable_engine.sequence import FinishReason, GenerationRequest, Matcher, Sequence

PROMPT_TOKENS = 16
_FIRST_PLAIN_TOKEN, _NUM_PLAIN_TOKENS = 32, 200  # ids of single bytes in every byte-level vocabulary

MaskLogits = Callable[[torch.Tensor, list[Any]], None]


class SteadyLoad:
    """Decodes `num_rows` rows for up to `num_steps` steps on a batcher of its own."""

    def __init__(self, model: Any, mask_logits: MaskLogits, num_rows: int, num_steps: int) -> None:
        self.row_beside: Sequence | None = None
        self.failure = ""
        """Why the engine ended the last row beside the steady ones; empty if it did not."""
        self._batcher = InFlightBatcher(model, num_rows + 1, mask_logits)
        for row in range(num_rows):
            self._batcher.add(_sequence(row + 1, num_steps + 1))

    def add_beside(self, matcher: Matcher | None, max_tokens: int) -> None:
        """Add the row beside the steady ones."""
        self.row_beside = _sequence(0, max_tokens)
        self.row_beside.matcher = matcher
        self._batcher.add(self.row_beside)

    def end_beside(self) -> None:
        """End the row beside the steady ones; it leaves with the next step."""
        if self.row_beside is not None:
            self._batcher.cancel(self.row_beside)

    def step(self) -> None:
        """Generate one token for each row."""
        finished, row = self._batcher.step(), self.row_beside
        if row is None or row not in finished:
            return
        self.row_beside = None
        if row.finish_reason is FinishReason.NO_ALLOWED_TOKEN:
            self.failure = "no token is allowed"
        elif row.matcher is not None and row.matcher.failure is not None:
            self.failure = row.matcher.failure.detail


def _sequence(row: int, max_tokens: int) -> Sequence:
    prompt = [_FIRST_PLAIN_TOKEN + (7 * row + 13 * position) % _NUM_PLAIN_TOKENS for position in range(PROMPT_TOKENS)]
    return Sequence(GenerationRequest(prompt, max_tokens), arrival_time_ns=time.monotonic_ns())
