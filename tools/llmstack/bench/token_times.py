"""When the tokens of streams came, as their consumer sees it. vLLM's Python imports this module, too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

_P99 = 0.99


class TokenTimes:
    """One stream, from its request on. Times are seconds of the performance counter."""

    def __init__(self, began_s: float | None = None) -> None:
        self.began_s = time.perf_counter() if began_s is None else began_s
        self.ended_s = self.began_s
        self.first_s: float | None = None
        """The seconds until the first token; None until it comes."""
        self.num_pieces, self.num_tokens = 0, 0
        self.intervals_s: list[float] = []
        """For each token but the first piece's: the time since the piece before, divided by the piece's new tokens."""
        self._last_token_s = 0.0

    def add(self, num_new_tokens: int, received_s: float | None = None) -> None:
        """Count a piece that came now, or at `received_s`.

        A piece without a token, such as an end that comes alone, is between no two tokens.
        """
        self.ended_s = time.perf_counter() if received_s is None else received_s
        self.num_pieces += 1
        if not num_new_tokens:
            return
        if self.first_s is None:
            self.first_s = self.ended_s - self.began_s
        else:
            self.intervals_s += [(self.ended_s - self._last_token_s) / num_new_tokens] * num_new_tokens
        self.num_tokens += num_new_tokens
        self._last_token_s = self.ended_s

    @property
    def duration_s(self) -> float:
        """The seconds until the last piece."""
        return self.ended_s - self.began_s


def first_token_ms_p50(streams: Sequence[TokenTimes]) -> float:
    """The median time to the first token; 0 if no stream has one."""
    return 1e3 * statistics.median([stream.first_s for stream in streams if stream.first_s is not None] or [0.0])


def inter_token_ms(streams: Sequence[TokenTimes]) -> tuple[float, float]:
    """The median and the 99th percentile of the time per token, over all tokens but each stream's first; else 0."""
    intervals_s = sorted(interval for stream in streams for interval in stream.intervals_s) or [0.0]
    return 1e3 * statistics.median(intervals_s), 1e3 * intervals_s[int(_P99 * len(intervals_s))]
