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
    """No wait before the first restart, then twice as long each time.

    Restarts that end in a proof are forgotten after `STABLE_S` of proven service, failed ones with the next proof.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._num_restarts = 0
        self._num_failed = 0
        self._proven_at_s: float | None = None

    def mark_healthy(self) -> None:
        """The server answered as it should."""
        self._proven_at_s = self._now_s()
        self._num_failed = 0

    def next_s(self) -> float:
        """Seconds to wait before the restart that is due now."""
        if self._proven_at_s is not None and self._now_s() - self._proven_at_s >= STABLE_S:
            self._num_restarts = 0
        self._proven_at_s = None
        wait_s = max(_wait_s(self._num_restarts, MAX_AFTER_PROOF_S), _wait_s(self._num_failed, MAX_S))
        self._num_restarts, self._num_failed = self._num_restarts + 1, self._num_failed + 1
        return wait_s


def _wait_s(num_before: int, max_s: float) -> float:
    return min(FIRST_S * 2 ** min(num_before - 1, 16), max_s) if num_before else 0.0
