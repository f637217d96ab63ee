"""Walks through a compiled guide before any request uses it.

The walks run in the sandbox, where a crash or a hang is harmless. They find dead ends (no token allowed), matchers that
crash, grammars that never end, and token masks that take longer than the engine may wait: one slow mask holds up every
request in the engine's batch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from llm_policy.guidance.backends.guide_backend import Bitmask, CompiledGuide, GuideMatcher
from llm_policy.guidance.limits import invalid, too_complex
from llm_policy.release.guide_limits import GuideLimits

CLOSING_TOKENS = (b"}", b"]", b'"', b'"}', b":", b'":', b"0", b",")
"""Tokens that tend to end JSON soon, the best first."""
OPEN_TOKENS = (b"a", b"0", b",", b'",', b'":', b'"', b"{", b"[", b":")
"""Tokens that keep strings, numbers and arrays open, the best first."""
QUOTE, LETTER = b'"', b"a"
"""Where a letter is allowed, the walk is inside a string, which only a quote ends; `}` would be one more character."""
MAX_RUN = 24
"""Times that an open walk repeats a token before it prefers another, so that it reaches the fields behind a string."""
OPEN_STEPS, RANDOM_STEPS, NUM_RANDOM_WALKS = 64, 32, 2
NUM_REPEATS = 3
SEED = 20_11

Choose = Callable[[Bitmask, Sequence[int]], "int | None"]
"""The next token id, from the mask and the ids so far; None at a dead end."""


class Probe:
    """Walks through compiled guides of one vocabulary."""

    def __init__(
        self, tokens: Sequence[bytes], stop_ids: Sequence[int], limits: GuideLimits, max_mask_ms: float
    ) -> None:
        """`tokens` are the bytes of each token id, without padding."""
        ids = {token: i for i, token in enumerate(tokens) if 1 <= len(token) <= 2}
        self._limits = limits
        self._max_mask_ms = max_mask_ms
        self._stop_ids = frozenset(stop_ids)
        self._closing = [*stop_ids, *(ids[token] for token in CLOSING_TOKENS if token in ids)]
        self._open = [ids[token] for token in OPEN_TOKENS if token in ids]
        self._string_ends = (ids[QUOTE], ids[LETTER]) if QUOTE in ids and LETTER in ids else None
        self._first_bytes = np.array([token[0] if token else 0 for token in tokens], dtype=np.uint8)

    def walk(self, guide: CompiledGuide, num_mask_words: int) -> float:
        """Processor time of the worst token mask seen, in ms.

        The first walk ends the output soon. The others keep strings and arrays open, and take random alternatives,
        until `max_probe_ms` are used up.

        Raises:
            SlowMask: a mask takes longer than `max_mask_ms` (the median of repeats).
            InvalidRequest: `schema_invalid` at a dead end, `schema_too_complex` if the first walk takes longer than
                `max_probe_ms`.
        """
        walk = _Walk(guide, num_mask_words, self._stop_ids, self._max_mask_ms, self._limits.max_probe_ms)
        if not walk.run(self._choose_closing, self._limits.max_probe_steps):
            raise too_complex(
                "time of the guide's probe in ms", self._limits.max_probe_ms + 1, self._limits.max_probe_ms
            )
        random = Random(SEED)  # noqa: S311 - repeatable on purpose
        walks: list[tuple[Choose, int]] = [(self._choose_open, OPEN_STEPS)]
        walks += [(self._random_choice(random), RANDOM_STEPS)] * NUM_RANDOM_WALKS
        for choose, num_steps in walks:
            if not walk.run(choose, min(num_steps, self._limits.max_probe_steps)):
                break
        return walk.worst_ms

    def _choose_closing(self, mask: Bitmask, _: Sequence[int]) -> int | None:
        if self._string_ends and all(allows(mask, token) for token in self._string_ends):
            return self._string_ends[0]
        return first_allowed(mask, self._closing)

    def _choose_open(self, mask: Bitmask, ids: Sequence[int]) -> int | None:
        last = ids[-1] if ids else -1
        is_run = len(ids) >= MAX_RUN and all(token == last for token in ids[-MAX_RUN:])
        preferred = [token for token in self._open if not (is_run and token == last)]
        if is_run and self._string_ends:
            preferred.insert(0, self._string_ends[0])
        return first_allowed(mask, preferred)

    def _random_choice(self, random: Random) -> Choose:
        """First bytes are drawn first: alternatives differ in them, and a few bytes start most tokens."""

        def choose(mask: Bitmask, _: Sequence[int]) -> int | None:
            bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(self._first_bytes)]
            allowed = np.flatnonzero(bits)
            if not allowed.size:
                return first_allowed(mask, ())
            first_bytes = self._first_bytes[allowed]
            byte = random.choice(np.unique(first_bytes).tolist())
            return int(random.choice(allowed[first_bytes == byte].tolist()))

        return choose


class _Walk:
    """The walks through one guide: they share the time and the worst mask."""

    def __init__(
        self, guide: CompiledGuide, num_mask_words: int, stop_ids: frozenset[int], max_mask_ms: float, max_probe_ms: int
    ) -> None:
        self.worst_ms = 0.0
        self._guide = guide
        self._mask: Bitmask = np.zeros(num_mask_words, dtype=np.int32)
        self._stop_ids = stop_ids
        self._max_mask_ms = max_mask_ms
        # Processor time, so that a busy machine does not reject a guide.
        self._deadline = time.process_time() + max_probe_ms / 1_000

    def run(self, choose: Choose, num_steps: int) -> bool:
        """Walk until the output ends or `num_steps`; false if the time ran out before.

        A walk that reaches the number of steps is a success: long outputs are allowed.
        """
        matcher = self._guide.matcher()
        ids: list[int] = []
        for _ in range(num_steps):
            self._fill(matcher, ids)
            token = choose(self._mask, ids)
            if token is None:
                raise invalid("the guide reaches a point where no token is allowed")
            if token in self._stop_ids:
                return True
            if not matcher.accept_token(token):
                raise invalid("the guide rejects a token that it allowed")
            ids.append(token)
            if time.process_time() > self._deadline:
                return False
        return True

    def _fill(self, matcher: GuideMatcher, ids: Sequence[int]) -> None:
        mask_ms = self._timed(matcher)
        if mask_ms > self._max_mask_ms:
            mask_ms = statistics.median([mask_ms, *(self._repeated(ids) for _ in range(NUM_REPEATS - 1))])
        self.worst_ms = max(self.worst_ms, mask_ms)
        if mask_ms > self._max_mask_ms:
            raise SlowMask(mask_ms)

    def _timed(self, matcher: GuideMatcher) -> float:
        start = time.thread_time()
        matcher.fill_bitmask(self._mask)
        return (time.thread_time() - start) * 1_000

    def _repeated(self, ids: Sequence[int]) -> float:
        """The time of the same mask with a new matcher, because a matcher may cache."""
        matcher = self._guide.matcher()
        for token in ids:
            matcher.accept_token(token)
        return self._timed(matcher)


class SlowMask(Exception):
    """A token mask takes longer than the engine may wait."""

    def __init__(self, mask_ms: float) -> None:
        super().__init__(mask_ms)
        self.mask_ms = mask_ms


def first_allowed(mask: Bitmask, preferred: Sequence[int]) -> int | None:
    """The first preferred token id that `mask` allows, else the lowest one allowed; None if the mask is empty."""
    for token in preferred:
        if allows(mask, token):
            return token
    words = np.flatnonzero(mask)
    if not words.size:
        return None
    word = int(mask[words[0]]) & 0xFFFF_FFFF
    return int(words[0]) * 32 + (word & -word).bit_length() - 1


def allows(mask: Bitmask, token: int) -> bool:
    """Whether `mask` allows the token id."""
    return bool(int(mask[token // 32]) >> (token % 32) & 1)
