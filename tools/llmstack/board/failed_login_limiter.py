"""Rate limit for failed logins. A right token always passes, because 256 random bits can't be guessed."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 60.0
MAX_FAILURES, MAX_FAILURES_IN_ALL = 5, 60
_MAX_ADDRESSES = 10_000


class FailedLoginLimiter:
    """Counts the wrong tokens of the last minute, per address and in total. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, deque[float]] = {}
        self._all: deque[float] = deque(maxlen=MAX_FAILURES_IN_ALL)

    def record_failure(self, address: str) -> float:
        """Count a wrong token from `address`; returns 0, or the seconds to wait when the limit is reached."""
        with self._lock:
            now = self._clock()
            if address not in self._failures and len(self._failures) >= _MAX_ADDRESSES:
                self._failures.pop(next(iter(self._failures)))
            own = self._failures.setdefault(address, deque(maxlen=MAX_FAILURES))
            if (wait_s := max(_wait_s(own, now), _wait_s(self._all, now))) > 0:
                return wait_s
            own.append(now)
            self._all.append(now)
            return 0.0


def _wait_s(failures: deque[float], now: float) -> float:
    """Seconds until the oldest failure of a full queue leaves the window."""
    return failures[0] + WINDOW_S - now if len(failures) == failures.maxlen else 0.0
