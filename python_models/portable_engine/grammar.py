"""Guided decoding: compiles guides on a thread of its own, masks logits by their token bitmasks, and ends guides whose
masks are too slow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
import xgrammar

from portable_engine.compiled_guides import CompiledGuide, CompiledGuides, guide_key
from portable_engine.failure import Failure, masks_too_slow
from portable_engine.guide_backend import GuideBackend, GuideError
from portable_engine.guide_matcher import GuideMatcher
from portable_engine.guide_types import LLGUIDANCE_TYPES, UNKNOWN_GUIDE_TYPE, XGRAMMAR_TYPES
from portable_engine.llguidance_backend import LLGuidanceBackend
from portable_engine.mask_law import DEFAULT_LIMIT_MS, too_slow_ms
from portable_engine.xgrammar_backend import XGrammarBackend

# Bounds the compiled grammars kept in memory. TensorRT-LLM's own cache has no bound.
MAX_CACHE_BYTES = 256 << 20
# Masks of several rows are computed side by side, beside the model's own threads.
NUM_MASK_THREADS = 4


class GrammarEngine:
    """Compiles guides for one tokenizer and masks logits. A guide's type chooses the backend.

    `vocab_size` is the model's padded vocabulary; ids beyond the tokenizer's are never allowed. A guide whose masks
    take more than `max_mask_ms` of processor time loses its place (see `mask_law`); `clock` returns the nanoseconds
    that the calling thread has used.
    """

    def __init__(
        self,
        tokenizer_info_path: Path,
        vocab_size: int,
        max_mask_ms: float = DEFAULT_LIMIT_MS,
        clock: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        info = json.loads(tokenizer_info_path.read_bytes())
        self.vocab_size = vocab_size
        self._max_mask_ms = max_mask_ms
        self._clock = clock
        self._backends: dict[str, GuideBackend] = {
            **dict.fromkeys(XGRAMMAR_TYPES, XGrammarBackend(info, vocab_size, MAX_CACHE_BYTES)),
            **dict.fromkeys(LLGUIDANCE_TYPES, LLGuidanceBackend(info, vocab_size)),
        }
        self._guides = CompiledGuides(MAX_CACHE_BYTES)
        self._pool = ThreadPoolExecutor(1, "guide-compiler")
        self._mask_pool = ThreadPoolExecutor(NUM_MASK_THREADS, "token-mask")

    def compile(self, guide_type: str, guide: str) -> Future[CompiledGuide]:
        """Compile a guide in the background. The future holds the compiled guide, or raises `GuideError`.

        It is done at once for a guide that is compiled already or refused.
        """
        key = guide_key(guide_type, guide)
        future: Future[CompiledGuide] = Future()
        try:
            known = self._find(key, guide_type)
        except GuideError as error:
            future.set_exception(error)
            return future
        if known is None:
            return self._pool.submit(self._compile, key, guide_type, guide)
        future.set_result(known)
        return future

    def _find(self, key: bytes, guide_type: str) -> CompiledGuide | None:
        if guide_type not in self._backends:
            raise GuideError(UNKNOWN_GUIDE_TYPE)
        found = self._guides.find(key)
        if isinstance(found, Failure):
            raise GuideError(found.detail, found.code)
        return found

    def _compile(self, key: bytes, guide_type: str, guide: str) -> CompiledGuide:
        # The same guide may have waited in the queue twice.
        if (known := self._find(key, guide_type)) is not None:
            return known
        compiled = CompiledGuide(key, self._backends[guide_type].compile(guide_type, guide))
        self._guides.add(compiled)
        return compiled

    def matcher(self, guide: CompiledGuide, end_id: int) -> GuideMatcher:
        """A new matcher, the state of one sequence. `end_id` ends the output; below 0, the tokenizer's stop tokens."""
        num_words = (self.vocab_size + 31) // 32
        return GuideMatcher(guide, guide.grammar.matcher(end_id), num_words, self._clock, self._mask_pool)

    def mask_logits(self, logits: torch.Tensor, matchers: list[GuideMatcher | None]) -> None:
        """Exclude, in place, the tokens that each row's matcher does not allow; None is an unguided row.

        A matcher that fails, or whose guide loses its place, excludes every token. `logits` is [rows, vocabulary].
        """
        guided = [(row, matcher) for row, matcher in enumerate(matchers) if matcher is not None]
        if not guided:
            return
        bitmask = xgrammar.allocate_token_bitmask(len(matchers), self.vocab_size)
        for row, matcher in guided:
            self._fill(matcher, bitmask, row)
        # XGrammar's default on a GPU compiles a kernel during the first guided request, inside an embedded Python.
        backend = "auto" if logits.device.type == "cpu" else "torch_native"
        rows = [row for row, _ in guided]
        xgrammar.apply_token_bitmask_inplace(logits, bitmask.to(logits.device), indices=rows, backend=backend)

    def _fill(self, matcher: GuideMatcher, bitmask: torch.Tensor, row: int) -> None:
        """Fill one row, and refuse the guide if its masks break the law."""
        fill_ms = matcher.fill_bitmask(bitmask, row)
        guide = matcher.guide
        guide.fills_ms.append(fill_ms)
        if guide.failure is None and (mean_ms := too_slow_ms(guide.fills_ms, self._max_mask_ms)) is not None:
            self._guides.refuse(guide, masks_too_slow(mean_ms, self._max_mask_ms))
            bitmask[row] = 0

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._mask_pool.shutdown(wait=False, cancel_futures=True)
