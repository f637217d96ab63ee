"""Guided decoding: compiles guides to grammars on a thread of its own and masks logits by their token bitmasks."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import xgrammar

GUIDE_TYPES = ("json", "json_schema", "regex", "ebnf_grammar")
# Bounds the compiled grammars kept in memory. TensorRT-LLM's own cache has no bound.
MAX_CACHE_BYTES = 256 << 20


class GuideError(ValueError):
    """The guide can't be used. The text never quotes the guide."""


class GrammarEngine:
    """Compiles guides for one tokenizer and masks logits.

    `vocab_size` is the model's padded vocabulary; ids beyond the tokenizer's are never allowed.
    """

    def __init__(self, tokenizer_info_path: Path, vocab_size: int) -> None:
        info = json.loads(tokenizer_info_path.read_bytes())
        self.vocab_size = vocab_size
        tokens = xgrammar.TokenizerInfo(
            info["encoded_vocab"],
            xgrammar.VocabType.BYTE_LEVEL,
            vocab_size=vocab_size,
            stop_token_ids=info["stop_token_ids"],
        )
        self._compiler = xgrammar.GrammarCompiler(tokens, max_threads=1, cache_limit_bytes=MAX_CACHE_BYTES)
        self._pool = ThreadPoolExecutor(1, "guide-compiler")

    def compile(self, guide_type: str, guide: str) -> Future[Any]:
        """Compile a guide in the background. The future holds the compiled grammar, or raises `GuideError`."""
        return self._pool.submit(self._compile, guide_type, guide)

    def _compile(self, guide_type: str, guide: str) -> Any:
        if guide_type not in GUIDE_TYPES:
            raise GuideError(f"unknown guide type, allowed: {', '.join(GUIDE_TYPES)}")
        try:
            if guide_type == "json":
                return self._compiler.compile_builtin_json_grammar()
            if guide_type == "json_schema":
                # Compact JSON, because a small model can repeat whitespace forever.
                return self._compiler.compile_json_schema(guide, any_whitespace=False, separators=(",", ":"))
            if guide_type == "regex":
                return self._compiler.compile_regex(guide)
            return self._compiler.compile_grammar(guide)
        except Exception:
            raise GuideError(f"the {guide_type} guide does not compile") from None

    def matcher(self, grammar: Any, end_id: int) -> Any:
        """A new matcher, the state of one sequence in `grammar`. `end_id` ends the output; below 0 it is ignored."""
        return xgrammar.GrammarMatcher(grammar, override_stop_tokens=[end_id] if end_id >= 0 else None)

    def mask_logits(self, logits: torch.Tensor, matchers: list[Any]) -> None:
        """Exclude, in place, the tokens that each row's matcher does not allow; None is an unguided row.

        `logits` is [rows, vocabulary].
        """
        rows = [row for row, matcher in enumerate(matchers) if matcher is not None]
        if not rows:
            return
        bitmask = xgrammar.allocate_token_bitmask(len(matchers), self.vocab_size)
        for row in rows:
            matchers[row].fill_next_token_bitmask(bitmask, row)
        # XGrammar's default on a GPU compiles a kernel during the first guided request, inside an embedded Python.
        backend = "auto" if logits.device.type == "cpu" else "torch_native"
        xgrammar.apply_token_bitmask_inplace(logits, bitmask.to(logits.device), indices=rows, backend=backend)

    def close(self) -> None:
        """Stop the compile thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)
