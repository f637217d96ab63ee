"""XGrammar over a vocabulary of the 256 bytes, with which a grammar compiles in a millisecond."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import xgrammar

STOP = 256


@lru_cache(maxsize=1)
def tokenizer_info() -> Any:
    """The vocabulary of single bytes and one stop token."""
    vocabulary = [bytes([byte]) for byte in range(256)] + [b"</s>"]
    return xgrammar.TokenizerInfo(vocabulary, vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[STOP])


@lru_cache(maxsize=1)
def _compiler() -> Any:
    return xgrammar.GrammarCompiler(tokenizer_info(), max_threads=1, cache_enabled=False)


def compile_guide(text: str) -> Any:
    """The compiled grammar of a guide's EBNF."""
    return _compiler().compile_grammar(text)


def accepts(compiled: Any, text: str) -> bool:
    """Whether the grammar accepts the whole text and the output may end there."""
    matcher = xgrammar.GrammarMatcher(compiled)
    return bool(matcher.accept_string(text) and matcher.accept_token(STOP))
