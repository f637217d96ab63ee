"""How long to wait before the server is started again."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_S = 0.5
# A server that was proven costs nobody much when it comes back soon; one that never was would only burn the machine.
MAX_AFTER_PROOF_S = 2.0
MAX_S = 30.0
STABLE_S = 30.0


class Backoff:
    """No wait before the first restart, then twice as long each time; forgotten after `STABLE_S` of proven service."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._num_restarts = 0
        self._proven_at_s: float | None = None

    def mark_proven(self) -> None:
        """The server answered as it should."""
        self._proven_at_s = self._now_s()

    def next_s(self) -> float:
        """Seconds to wait before the restart that is due now."""
        proven_at_s, self._proven_at_s = self._proven_at_s, None
        if proven_at_s is not None and self._now_s() - proven_at_s >= STABLE_S:
            self._num_restarts = 0
        wait_s = FIRST_S * 2 ** (self._num_restarts - 1) if self._num_restarts else 0.0
        self._num_restarts = min(self._num_restarts + 1, 16)
        return min(wait_s, MAX_AFTER_PROOF_S if proven_at_s is not None else MAX_S)
