"""llguidance as a structured-output backend: Lark grammars, which may contain JSON schemas (`start: %json {…}`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import llguidance
import torch
from llguidance.numpy import fill_next_token_bitmask

from portable_engine.guide_backend import GuideError, does_not_compile

# llguidance does not tell what a compiled grammar of a text takes; measured are less than 10 bytes per byte of text.
_BASE_BYTES, _BYTES_PER_TEXT_BYTE = 256 << 10, 64
_WORD_BITS = 32


class LLGuidanceBackend:
    """Compiles guides for one tokenizer. Making one takes seconds for a vocabulary of 150,000.

    `tokenizer_info` is the content of tokenizer_info.json; `vocab_size` is the model's padded vocabulary.

    Raises:
        ValueError: the tokenizer has more tokens than the model.
    """

    def __init__(self, tokenizer_info: Mapping[str, Any], vocab_size: int) -> None:
        self._stop_ids = tuple(tokenizer_info["stop_token_ids"])
        self._tokenizer = llguidance.LLTokenizer(
            tokenizer_info["tokenizer_str"], n_vocab=vocab_size, eos_token=self._stop_ids[0]
        )
        # Verbose errors contain the grammar's text.
        self._limits = llguidance.LLParserLimits(verbose_errors=False)

    def compile(self, guide_type: str, guide: str) -> LLGuidanceGrammar:
        """Compile a guide, and its first mask: a matcher's copies share what that computes.

        Raises:
            GuideError: it does not compile.
        """
        text = llguidance.LLMatcher.grammar_from_lark(guide)
        matcher = llguidance.LLMatcher(self._tokenizer, text, log_level=0, limits=self._limits)
        if not matcher.is_error():
            matcher.compute_bitmask()
        if matcher.is_error():
            raise does_not_compile(guide_type)
        return LLGuidanceGrammar(matcher, self._stop_ids, len(guide.encode()))


class LLGuidanceGrammar:
    """A grammar that llguidance compiled."""

    def __init__(self, matcher: Any, stop_ids: tuple[int, ...], num_text_bytes: int) -> None:
        self._matcher = matcher
        self._stop_ids = stop_ids
        self.size_bytes = _BASE_BYTES + _BYTES_PER_TEXT_BYTE * num_text_bytes

    def matcher(self, end_id: int) -> LLGuidanceMatcher:
        """A new matcher. `end_id` alone ends the output; below 0, the tokenizer's stop tokens do."""
        end_ids = (end_id,) if end_id >= 0 else self._stop_ids
        return LLGuidanceMatcher(self._matcher.deep_copy(), self._stop_ids[0], end_ids)


class LLGuidanceMatcher:
    """One sequence's state in its grammar.

    llguidance knows one token that ends the output, `eos_id`. Here each of `end_ids` does in its place, and nothing
    else: a token of `end_ids` is never text.
    """

    def __init__(self, matcher: Any, eos_id: int, end_ids: tuple[int, ...]) -> None:
        self._matcher = matcher
        self._eos_id = eos_id
        self._end_ids = end_ids
        self._is_terminated = False

    def fill_bitmask(self, bitmask: torch.Tensor, row: int) -> None:
        """Write the allowed tokens into one row of an int32 tensor [rows, words].

        Raises:
            GuideError: the mask exceeds a limit. llguidance then allows the end, which would cut the output off.
        """
        words = bitmask.numpy()
        fill_next_token_bitmask(self._matcher, words, row)
        if self._matcher.is_error():
            raise GuideError("the guide's token mask exceeds a limit", "schema_too_complex")
        if self._end_ids != (self._eos_id,):
            can_end = _bit(words[row], self._eos_id)
            _set_bit(words[row], self._eos_id, False)
            for end_id in self._end_ids:
                _set_bit(words[row], end_id, can_end)

    def accept_token(self, token_id: int) -> bool:
        """Advance by one token. False if the grammar does not allow it.

        Raises:
            GuideError: the state exceeds a limit.
        """
        if token_id in self._end_ids:
            self._is_terminated = self._is_terminated or bool(self._matcher.is_accepting())
            return self._is_terminated
        if token_id == self._eos_id or self._is_terminated:
            return False
        is_accepted = bool(self._matcher.try_consume_tokens([token_id]))
        if self._matcher.is_error():
            raise GuideError("the guide's state exceeds a limit", "schema_too_complex")
        return is_accepted

    def is_terminated(self) -> bool:
        """Whether the token that ends the output was accepted."""
        return self._is_terminated


def _bit(words: Any, token_id: int) -> bool:
    return bool(int(words[token_id // _WORD_BITS]) >> token_id % _WORD_BITS & 1)


def _set_bit(words: Any, token_id: int, value: bool) -> None:
    word, bit = int(words[token_id // _WORD_BITS]), 1 << token_id % _WORD_BITS
    unsigned = (word | bit if value else word & ~bit) % (1 << _WORD_BITS)
    words[token_id // _WORD_BITS] = unsigned - (1 << _WORD_BITS) * (unsigned >> _WORD_BITS - 1)
