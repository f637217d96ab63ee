"""llguidance over a vocabulary of the 256 bytes, with which a grammar compiles in a millisecond."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

# A module that imports this one is skipped where llguidance is not installed.
llguidance = pytest.importorskip("llguidance")

STOP = 256


class _Bytes:
    """What llguidance asks of a tokenizer."""

    eos_token_id = STOP
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"</s>")
    special_token_ids = (STOP,)

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """The vocabulary of single bytes and one stop token."""
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()), n_vocab=STOP + 1, slices=[])


def compile_lark(text: str) -> Any:
    """A matcher of a guide's Lark text.

    Raises:
        ValueError: llguidance rejects the text.
    """
    matcher = llguidance.LLMatcher(tokenizer(), llguidance.LLMatcher.grammar_from_lark(text), log_level=0)
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    return matcher


def accepts(matcher: Any, text: str) -> bool:
    """Whether the grammar accepts the whole text and the output may end there."""
    matcher = matcher.deep_copy()
    tokens = list(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())
