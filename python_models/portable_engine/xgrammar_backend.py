"""XGrammar as a structured-output backend: JSON, JSON Schema, regular expressions and EBNF."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xgrammar

from portable_engine.guide_backend import GuideError, does_not_compile


class XGrammarBackend:
    """Compiles guides for one tokenizer.

    `tokenizer_info` is the content of tokenizer_info.json; `vocab_size` is the model's padded vocabulary.
    `max_cache_bytes` bounds the parts of grammars that XGrammar keeps for later guides.
    """

    def __init__(self, tokenizer_info: Mapping[str, Any], vocab_size: int, max_cache_bytes: int) -> None:
        tokens = xgrammar.TokenizerInfo(
            tokenizer_info["encoded_vocab"],
            xgrammar.VocabType.BYTE_LEVEL,
            vocab_size=vocab_size,
            stop_token_ids=tokenizer_info["stop_token_ids"],
        )
        self._compiler = xgrammar.GrammarCompiler(tokens, max_threads=1, cache_limit_bytes=max_cache_bytes)

    def compile(self, guide_type: str, guide: str) -> XGrammarGrammar:
        """Compile a guide.

        Raises:
            GuideError: it does not compile.
        """
        try:
            return XGrammarGrammar(self._compile(guide_type, guide))
        except Exception:
            raise does_not_compile(guide_type) from None

    def _compile(self, guide_type: str, guide: str) -> Any:
        if guide_type == "json":
            return self._compiler.compile_builtin_json_grammar()
        if guide_type == "json_schema":
            # Compact JSON, because a small model can repeat whitespace forever.
            return self._compiler.compile_json_schema(guide, any_whitespace=False, separators=(",", ":"))
        if guide_type == "regex":
            return self._compiler.compile_regex(guide)
        return self._compiler.compile_grammar(guide)


class XGrammarGrammar:
    """A grammar that XGrammar compiled."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self.size_bytes = int(compiled.memory_size_bytes)

    def matcher(self, end_id: int) -> XGrammarMatcher:
        """A new matcher. `end_id` alone ends the output; below 0, the tokenizer's stop tokens do."""
        stop_tokens = [end_id] if end_id >= 0 else None
        return XGrammarMatcher(xgrammar.GrammarMatcher(self._compiled, override_stop_tokens=stop_tokens))


class XGrammarMatcher:
    """One sequence's state in its grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def fill_bitmask(self, bitmask: Any, row: int) -> None:
        """Write the allowed tokens into one row of an int32 tensor [rows, words]; its bits must all be 1 before.

        Raises:
            GuideError: XGrammar failed. Otherwise its error would end the step of every sequence.
        """
        try:
            self._matcher.fill_next_token_bitmask(bitmask, row)
        except Exception:
            raise GuideError("the guide's token mask can't be computed", "internal") from None

    def accept_token(self, token_id: int) -> bool:
        """Advance by one token. False if the grammar does not allow it."""
        return bool(self._matcher.accept_token(token_id))

    def is_terminated(self) -> bool:
        """Whether the token that ends the output was accepted."""
        return bool(self._matcher.is_terminated())
