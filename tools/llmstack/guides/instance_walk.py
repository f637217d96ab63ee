"""Walks through a compiled guide by an instance's tokens, and times the token mask at each of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from llm_policy.errors import PolicyError
from llm_policy.guidance.backends.guide_backend import Bitmask, CompiledGuide, GuideMatcher, num_mask_words

MAX_TIMED_TOKENS = 2_000
"""Tokens of one instance at which masks are timed."""
REPEATED_MS = 2.0
"""A mask that takes longer is measured three times, and the median counts: a busy machine makes single ones slow."""
NUM_REPEATS = 3


class InstanceWalk:
    """Walks through guides of one vocabulary."""

    def __init__(self, stop_id: int, num_mask_bits: int) -> None:
        """`stop_id` ends an output; `num_mask_bits` is the engine's padded vocabulary."""
        self._stop_id = stop_id
        self._mask: Bitmask = np.zeros(num_mask_words(num_mask_bits), dtype=np.int32)

    def accepts(self, guide: CompiledGuide, ids: Sequence[int]) -> bool:
        """Whether the guide accepts all tokens and the output may end after them."""
        matcher = guide.matcher()
        try:
            return all(matcher.accept_token(token) for token in (*ids, self._stop_id))
        except PolicyError:
            return False

    def mask_ms(self, guide: CompiledGuide, ids: Sequence[int]) -> list[float]:
        """Milliseconds of processor time for the mask before each token and before the end, as far as the guide goes.

        An engine fills the same masks when a model writes the instance. Every decode step waits for them.
        """
        matcher = guide.matcher()
        times: list[float] = []
        try:
            for position in range(min(len(ids), MAX_TIMED_TOKENS) + 1):
                times.append(self._mask_ms(guide, matcher, ids[:position]))
                if position == len(ids) or not matcher.accept_token(ids[position]):
                    break
        except PolicyError:  # the guide exceeds a limit of its library here
            pass
        return times

    def _mask_ms(self, guide: CompiledGuide, matcher: GuideMatcher, before: Sequence[int]) -> float:
        first = self._timed(matcher)
        if first <= REPEATED_MS:
            return first
        return statistics.median([first, *(self._repeated(guide, before) for _ in range(NUM_REPEATS - 1))])

    def _repeated(self, guide: CompiledGuide, before: Sequence[int]) -> float:
        """The time of the same mask with a new matcher, because a matcher may cache."""
        matcher = guide.matcher()
        for token in before:
            matcher.accept_token(token)
        return self._timed(matcher)

    def _timed(self, matcher: GuideMatcher) -> float:
        start = time.thread_time()
        matcher.fill_bitmask(self._mask)
        return 1000 * (time.thread_time() - start)
