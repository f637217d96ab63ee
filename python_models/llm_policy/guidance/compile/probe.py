"""A short walk through a compiled grammar, before any request relies on it.

Run where a crash or a hang is harmless. It fills the first token mask and then walks on, token by token, by whatever
ends soonest: a dead end (no token allowed), a matcher that blows up, or a grammar that is never done shows here.
"""

from __future__ import annotations

import time
from typing import Any

from llm_policy.guidance.limits import invalid, too_complex
from llm_policy.release.guide_limits import GuideLimits

CLOSING = (b"}", b"]", b'"', b'"}', b":", b'":', b"0", b",")
"""Tokens that tend to bring JSON to its end, the best first; without one of them, the first token allowed."""
QUOTE, LETTER = b'"', b"a"
"""Where a letter is allowed the walk is in a text, which only its quote ends: `}` would be one more character of it."""
MASK_BITS = 32


def probe(compiled_grammar: Any, tokenizer_info: Any, limits: GuideLimits) -> None:
    """Walk up to `max_probe_steps` tokens and `max_probe_ms`.

    Raises `schema_invalid` at a dead end and `schema_too_complex` when time runs out. A walk that is cut off by the
    number of steps is fine: long texts are allowed.
    """
    import xgrammar

    matcher = xgrammar.GrammarMatcher(compiled_grammar)
    bitmask = xgrammar.allocate_token_bitmask(1, tokenizer_info.vocab_size)
    stop_ids = list(tokenizer_info.stop_token_ids)
    ids = known_tokens(tokenizer_info)
    preferred = [*stop_ids, *(ids[token] for token in CLOSING if token in ids)]
    text_ends = (ids[QUOTE], ids[LETTER]) if QUOTE in ids and LETTER in ids else None
    # Processor time: a busy machine makes no guide more complex.
    deadline = time.process_time() + limits.max_probe_ms / 1_000
    for _ in range(limits.max_probe_steps):
        restricted = matcher.fill_next_token_bitmask(bitmask)
        token = choose(bitmask[0].tolist(), preferred, text_ends) if restricted else preferred[0]
        if token is None:
            raise invalid("the guide reaches a point where no token is allowed")
        if token in stop_ids:
            return
        if not matcher.accept_token(token):
            raise invalid("the guide refuses a token that it allowed")
        if time.process_time() > deadline:
            limit_ms = limits.max_probe_ms
            raise too_complex("time of the guide's probe in ms", limit_ms + 1, limit_ms)


def known_tokens(tokenizer_info: Any) -> dict[bytes, int]:
    """Ids of those of the tokens named here that the vocabulary has (half a second; the last answer is kept)."""
    if not any(known is tokenizer_info for known, _ in _LAST):
        wanted = {*CLOSING, QUOTE, LETTER}
        found = {token: i for i, token in enumerate(tokenizer_info.decoded_vocab) if token in wanted}
        _LAST[:] = [(tokenizer_info, found)]
    return _LAST[0][1]


_LAST: list[tuple[Any, dict[bytes, int]]] = []


def choose(words: list[int], preferred: list[int], text_ends: tuple[int, int] | None = None) -> int | None:
    """A token of the mask (one bit for each token, 32 to a word): a preferred one, else the first; None if empty.

    `text_ends` are the ids of a quote and a letter: where both are allowed, it is the quote.
    """
    if text_ends and all(_allows(words, token) for token in text_ends):
        return text_ends[0]
    for token in preferred:
        if _allows(words, token):
            return token
    for i, word in enumerate(words):
        if word:
            return i * MASK_BITS + (word & -word).bit_length() - 1
    return None


def _allows(words: list[int], token: int) -> bool:
    return bool(words[token // MASK_BITS] >> (token % MASK_BITS) & 1)
