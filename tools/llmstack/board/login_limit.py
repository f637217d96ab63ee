"""How often somebody may be told that a token is wrong. A right one always passes: nobody guesses 256 bits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 60.0
MAX_FAILURES, MAX_FAILURES_IN_ALL = 5, 60
_MAX_ADDRESSES = 10_000


class LoginLimit:
    """Counts wrong tokens of the last minute, by address and in all; safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, deque[float]] = {}
        self._all: deque[float] = deque(maxlen=MAX_FAILURES_IN_ALL)

    def count_failure(self, address: str) -> float:
        """A token of `address` was wrong: 0, or the seconds until it may be told so again."""
        with self._lock:
            now = self._clock()
            if address not in self._failures and len(self._failures) >= _MAX_ADDRESSES:
                self._failures.pop(next(iter(self._failures)))
            own = self._failures.setdefault(address, deque(maxlen=MAX_FAILURES))
            if (wait_s := max(_wait(own, now), _wait(self._all, now))) > 0:
                return wait_s
            own.append(now)
            self._all.append(now)
            return 0.0


def _wait(failures: deque[float], now: float) -> float:
    """Until the oldest of as many failures as may be has left the window."""
    return failures[0] + WINDOW_S - now if len(failures) == failures.maxlen else 0.0
