"""One sequence's state in its guide, which can fail, and its next token mask, which is computed ahead.

The mask for the next token depends on the last one only. So a thread computes it while the model computes the logits,
and the step waits only for what is left. Both backends release Python's global lock meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import torch

from portable_engine.compiled_guides import CompiledGuide
from portable_engine.failure import Failure
from portable_engine.guide_backend import BackendMatcher, GuideError


@dataclass(frozen=True)
class TokenMask:
    """The tokens that may come next: `words` is an int32 tensor [1, words]. `fill_ms` is processor time."""

    words: torch.Tensor
    fill_ms: float
    failure: Failure | None = None


class GuideMatcher:
    """A backend's matcher that keeps its failure, or its guide's. After a failure it allows no token."""

    def __init__(
        self, guide: CompiledGuide, matcher: BackendMatcher, num_words: int, clock: Callable[[], int], pool: Executor
    ) -> None:
        """`clock` returns the nanoseconds that the calling thread has used; `pool` computes masks ahead."""
        self.guide = guide
        self._matcher = matcher
        self._num_words = num_words
        self._clock = clock
        self._pool = pool
        self._ahead: Future[TokenMask] | None = None
        self._is_terminated = False
        self._failure: Failure | None = None

    @property
    def failure(self) -> Failure | None:
        """Why the sequence can't continue; None while it can."""
        return self._failure or self.guide.failure

    def fill_bitmask(self, bitmask: Any, row: int) -> float:
        """Write the allowed tokens into one row of an int32 tensor [rows, words].

        Returns the processor time of the fill in ms.
        """
        mask, self._ahead = self._ahead.result() if self._ahead else self._fill(), None
        self._failure = self._failure or mask.failure
        bitmask[row] = mask.words[0] if self.failure is None else 0
        return mask.fill_ms

    def accept_token(self, token_id: int) -> bool:
        """Advance by one token. False if the grammar does not allow it, or if the matcher failed."""
        if self._ahead:  # the last mask was not used; its thread may still read the state
            self._ahead.result()
        try:
            is_accepted = self._failure is None and self._matcher.accept_token(token_id)
        except GuideError as error:
            self._failure = error.failure
            return False
        self._is_terminated = self._matcher.is_terminated()
        can_continue = is_accepted and not self._is_terminated
        self._ahead = self._pool.submit(self._fill) if can_continue else None
        return is_accepted

    def is_terminated(self) -> bool:
        """Whether the token that ends the output was accepted."""
        return self._is_terminated

    def _fill(self) -> TokenMask:
        words = torch.full((1, self._num_words), -1, dtype=torch.int32)
        if self.failure is not None:
            return TokenMask(words, 0.0)
        began = self._clock()
        failure = None
        try:
            self._matcher.fill_bitmask(words, 0)
        except GuideError as error:
            failure = error.failure
        return TokenMask(words, (self._clock() - began) / 1e6, failure)
