"""When a failed delivery is retried, and when it is given up.

The wait after the n-th failure is a random part of min(15 min, 5 s x 2^(n-1)) ("full jitter", which
spreads the retries of senders that failed together). A delivery is given up at the first failure that comes a day after
the first attempt and is at least the 20th, so neither jitter nor a clock set forward shortens the day.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]+")
_MAX_SECONDS_DIGITS = 9
_MAX_DOUBLINGS = 32  # more would only overflow


@dataclass(frozen=True)
class RetrySchedule:
    """The bounds of the waits between attempts."""

    base_s: float = 5.0
    max_backoff_s: float = 900.0
    max_retry_after_s: float = 3600.0
    give_up_after_s: float = 86_400.0
    min_attempts: int = 20

    @property
    def max_wait_s(self) -> float:
        """The longest possible wait. A later due time was written with a wrong clock."""
        return max(self.max_backoff_s, self.max_retry_after_s)

    def ceiling_s(self, num_failures: int) -> float:
        """The longest backoff after `num_failures` failures."""
        doublings = min(max(num_failures, 1) - 1, _MAX_DOUBLINGS)
        return min(self.max_backoff_s, self.base_s * 2.0**doublings)

    def wait_s(self, num_failures: int, retry_after_s: float | None, uniform: Callable[[float, float], float]) -> float:
        """The wait after the `num_failures`-th failure: at least `retry_after_s`, which is capped."""
        requested_s = min(retry_after_s or 0.0, self.max_retry_after_s)
        return max(requested_s, uniform(0.0, self.ceiling_s(num_failures)))

    def is_exhausted(self, num_failures: int, since_first_attempt_s: float) -> bool:
        """Whether the delivery is given up at this failure."""
        return num_failures >= self.min_attempts and since_first_attempt_s >= self.give_up_after_s


def parse_retry_after(text: str | None, now_s: float) -> float | None:
    """Seconds from the header `Retry-After`, a number or an HTTP date; None when it is missing or malformed.

    `now_s` is Unix time. Never raises, whatever the receiver sends.
    """
    if text is None:
        return None
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(text[:_MAX_SECONDS_DIGITS]) if len(text) <= _MAX_SECONDS_DIGITS else 10.0**_MAX_SECONDS_DIGITS
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)  # HTTP dates are always UTC
        return max(0.0, date.timestamp() - now_s)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
