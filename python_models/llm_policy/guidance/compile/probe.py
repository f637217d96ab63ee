"""A short walk through a compiled grammar before any request uses it.

Runs in the sandbox, where a crash or a hang is harmless. The walk fills the first token mask and then accepts token
after token, preferring tokens that end the output soon. It finds dead ends (no token allowed), matchers that crash, and
grammars that never end.
"""

from __future__ import annotations

import time
from typing import Any

from llm_policy.guidance.limits import invalid, too_complex
from llm_policy.release.guide_limits import GuideLimits

CLOSING_TOKENS = (b"}", b"]", b'"', b'"}', b":", b'":', b"0", b",")
"""Tokens that tend to end JSON soon, the best first; if none is allowed, the walk takes the first allowed token."""
QUOTE, LETTER = b'"', b"a"
"""Where a letter is allowed, the walk is inside a string, which only a quote ends; `}` would be one more character."""
MASK_WORD_BITS = 32


class Probe:
    """Walks through compiled grammars of one vocabulary."""

    def __init__(self, tokenizer_info: Any, limits: GuideLimits) -> None:
        """Takes half a second for a vocabulary of 150,000."""
        wanted = {*CLOSING_TOKENS, QUOTE, LETTER}
        ids = {token: i for i, token in enumerate(tokenizer_info.decoded_vocab) if token in wanted}
        self._limits = limits
        self._vocab_size = tokenizer_info.vocab_size
        self._stop_ids = list(tokenizer_info.stop_token_ids)
        self._preferred = [*self._stop_ids, *(ids[token] for token in CLOSING_TOKENS if token in ids)]
        self._string_ends = (ids[QUOTE], ids[LETTER]) if QUOTE in ids and LETTER in ids else None

    def walk(self, compiled_grammar: Any) -> None:
        """Walk up to `max_probe_steps` tokens and `max_probe_ms`.

        A walk that reaches the number of steps is a success: long outputs are allowed.

        Raises:
            InvalidRequest: `schema_invalid` at a dead end, `schema_too_complex` when time runs out.
        """
        import xgrammar

        matcher = xgrammar.GrammarMatcher(compiled_grammar)
        bitmask = xgrammar.allocate_token_bitmask(1, self._vocab_size)
        limit_ms = self._limits.max_probe_ms
        # Processor time, so that a busy machine does not reject a guide.
        deadline = time.process_time() + limit_ms / 1_000
        for _ in range(self._limits.max_probe_steps):
            is_restricted = matcher.fill_next_token_bitmask(bitmask)
            token = (
                choose(bitmask[0].tolist(), self._preferred, self._string_ends) if is_restricted else self._preferred[0]
            )
            if token is None:
                raise invalid("the guide reaches a point where no token is allowed")
            if token in self._stop_ids:
                return
            if not matcher.accept_token(token):
                raise invalid("the guide rejects a token that it allowed")
            if time.process_time() > deadline:
                raise too_complex("time of the guide's probe in ms", limit_ms + 1, limit_ms)


def choose(mask: list[int], preferred: list[int], string_ends: tuple[int, int] | None = None) -> int | None:
    """A token id that `mask` allows: the first preferred one, else the lowest; None if the mask is empty.

    `mask` has one bit per token, 32 to a word. `string_ends` are the ids of a quote and a letter: if both are allowed,
    the quote is chosen.
    """
    if string_ends and all(_allows(mask, token) for token in string_ends):
        return string_ends[0]
    for token in preferred:
        if _allows(mask, token):
            return token
    for i, word in enumerate(mask):
        if word:
            return i * MASK_WORD_BITS + (word & -word).bit_length() - 1
    return None


def _allows(mask: list[int], token: int) -> bool:
    return bool(mask[token // MASK_WORD_BITS] >> (token % MASK_WORD_BITS) & 1)
