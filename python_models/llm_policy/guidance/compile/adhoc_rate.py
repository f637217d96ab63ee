"""The number of ad hoc guides within a minute, shared between tenants.

The limit belongs to the server, because the engine's own cache of guides is unbounded.
"""

from __future__ import annotations

from collections import Counter, deque

from llm_policy.errors import Code, Unavailable

WINDOW_S = 60.0
# A tenant may have up to this many times what is left for all: three quarters if it is alone, 3/7 of two tenants.
LEFT_FACTOR = 3
# One in this many guides is kept for tenants that sent no new guide within the minute.
RESERVE = 8


class AdhocRate:
    """The new guides of each tenant within the last minute. Not thread-safe.

    Each tenant may use up to `LEFT_FACTOR` times what is left. What is left shrinks as tenants become active, so
    tenants that want more than there is get equal shares, and there is always room for one more tenant's first guide.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._times: deque[tuple[float, str]] = deque()  # monotonic; at most `limit`
        self._counts: Counter[str] = Counter()

    def check(self, tenant: str, num_new: int, now: float) -> None:
        """Whether `tenant` may send `num_new` more new guides (monotonic time `now`).

        Raises:
            Unavailable: `guidance_unavailable`: the tenant's share or the server's limit is used up.
        """
        self._expire(now)
        num_all, num_own = len(self._times), self._counts[tenant]
        if num_all + num_new > self._limit:
            raise self._error(f"{num_all} new guides of all tenants", f"limit {self._limit}")
        if num_own + num_new == 1:
            return
        share = self._share(num_own, num_all)
        if num_own + num_new > share:
            raise self._error(f"{num_own} new guides of this tenant", f"limit {share} of the server's {self._limit}")

    def add(self, tenant: str, num_new: int, now: float) -> None:
        """Count new guides."""
        self._times.extend([(now, tenant)] * num_new)
        self._counts[tenant] += num_new

    def _share(self, num_own: int, num_all: int) -> int:
        """The number of guides that a tenant may have within the minute.

        It is the largest n for which, before the n-th guide, n is at most `LEFT_FACTOR` times what is left.
        """
        num_others = num_all - num_own
        by_factor = (LEFT_FACTOR * (self._limit - num_others + 1)) // (LEFT_FACTOR + 1)
        return max(1, min(by_factor, self._limit - -(-self._limit // RESERVE) - num_others))

    def _expire(self, now: float) -> None:
        while self._times and self._times[0][0] <= now - WINDOW_S:
            _, tenant = self._times.popleft()
            self._counts[tenant] -= 1
            if not self._counts[tenant]:
                del self._counts[tenant]

    @staticmethod
    def _error(what: str, limit: str) -> Unavailable:
        return Unavailable(
            Code.GUIDANCE_UNAVAILABLE, f"{what} came within a minute, {limit} (max_adhoc_per_minute); try again later"
        )
