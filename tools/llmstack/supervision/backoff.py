"""The wait before a restart of the server."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_S = 0.5
# A server that was healthy may restart soon. One that never was would only burn CPU time.
MAX_AFTER_HEALTHY_S = 2.0
MAX_S = 30.0
STABLE_S = 30.0


class Backoff:
    """No wait before the first restart, then exponential backoff.

    Two counters make the wait. All restarts count until the server has been healthy for `STABLE_S`; they wait up to
    `MAX_AFTER_HEALTHY_S`. Restarts since the server was last healthy wait up to `MAX_S`.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._num_restarts = 0
        self._num_failed = 0
        self._healthy_at_s: float | None = None

    def mark_healthy(self) -> None:
        """Record that the server passed its health check."""
        self._healthy_at_s = self._now_s()
        self._num_failed = 0

    def next_wait_s(self) -> float:
        """Seconds to wait before the next restart, which is counted."""
        if self._healthy_at_s is not None and self._now_s() - self._healthy_at_s >= STABLE_S:
            self._num_restarts = 0
        self._healthy_at_s = None
        wait_s = max(_wait_s(self._num_restarts, MAX_AFTER_HEALTHY_S), _wait_s(self._num_failed, MAX_S))
        self._num_restarts, self._num_failed = self._num_restarts + 1, self._num_failed + 1
        return wait_s


def _wait_s(num_before: int, max_s: float) -> float:
    return min(FIRST_S * 2 ** min(num_before - 1, 16), max_s) if num_before else 0.0
