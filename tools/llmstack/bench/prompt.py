"""Prompts of a given length for the benchmarks."""

from __future__ import annotations

from typing import NamedTuple

from llm_policy.text.tokenizer import Tokenizer

_SENTENCE = "Order 4711 was placed by Ada Lovelace on 3 May and shipped to Leeds in two parcels. "


class Prompt(NamedTuple):
    """A prompt as text and as token ids."""

    text: str
    token_ids: list[int]


def build_prompt(tokenizer: Tokenizer, num_tokens: int) -> Prompt:
    """English text of about `num_tokens` tokens: one sentence, repeated."""
    sentence_tokens = len(tokenizer.encode_text(_SENTENCE))
    text = _SENTENCE * max(1, round(num_tokens / sentence_tokens))
    return Prompt(text, [int(token) for token in tokenizer.encode_text(text)])
