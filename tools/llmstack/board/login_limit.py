"""How often somebody may guess a token."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 60.0
MAX_FAILURES, MAX_FAILURES_IN_ALL = 5, 60
_MAX_ADDRESSES = 10_000


class LoginLimit:
    """Counts failed logins of the last minute, by address and in all; safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, deque[float]] = {}
        self._all: deque[float] = deque()

    def wait_s(self, address: str) -> float:
        """Seconds until `address` may try again; 0 when it may now."""
        with self._lock:
            now = self._clock()
            return max(
                _wait(self._failures.get(address, deque()), MAX_FAILURES, now),
                _wait(self._all, MAX_FAILURES_IN_ALL, now),
            )

    def count_failure(self, address: str) -> None:
        """A login of `address` failed."""
        with self._lock:
            now = self._clock()
            if address not in self._failures and len(self._failures) >= _MAX_ADDRESSES:
                self._failures.pop(next(iter(self._failures)))
            self._failures.setdefault(address, deque(maxlen=MAX_FAILURES)).append(now)
            self._all.append(now)
            while self._all and self._all[0] <= now - WINDOW_S:
                self._all.popleft()


def _wait(failures: deque[float], limit: int, now: float) -> float:
    recent = [at for at in failures if at > now - WINDOW_S]
    return recent[-limit] + WINDOW_S - now if len(recent) >= limit else 0.0
