"""How much of the workers' time each tenant used recently."""

from __future__ import annotations

import heapq
import itertools
from math import exp
from typing import NamedTuple

DECAY_S = 60.0
# Room for far more tenants than can use the workers within a minute.
MAX_TENANTS = 1_024


class _Use(NamedTuple):
    seconds: float
    at: float
    turn: int


class ChildTime:
    """Seconds per tenant. A second that was used t seconds ago counts exp(-t / `DECAY_S`). Not thread-safe.

    If there are more than `MAX_TENANTS`, those that used least are forgotten.
    """

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}
        self._turns = itertools.count(1)

    def __len__(self) -> int:
        return len(self._uses)

    def add(self, tenant: str, seconds: float, now: float) -> None:
        """Count `seconds` that end at `now` (monotonic)."""
        self._keep(tenant, self._seconds(tenant, now) + seconds, now, self._turn(tenant))

    def count_turn(self, tenant: str, now: float) -> None:
        """Note that it was the tenant's turn."""
        self._keep(tenant, self._seconds(tenant, now), now, next(self._turns))

    def rank(self, tenant: str, now: float) -> tuple[float, int]:
        """The lowest rank is next: the seconds used, then the number of the last turn."""
        return self._seconds(tenant, now), self._turn(tenant)

    def _seconds(self, tenant: str, now: float) -> float:
        use = self._uses.get(tenant)
        return use.seconds * exp((use.at - now) / DECAY_S) if use else 0.0

    def _turn(self, tenant: str) -> int:
        use = self._uses.get(tenant)
        return use.turn if use else 0

    def _keep(self, tenant: str, seconds: float, now: float, turn: int) -> None:
        self._uses[tenant] = _Use(seconds, now, turn)
        if len(self._uses) > MAX_TENANTS:
            # Half of them, so that this does not happen again soon.
            kept = heapq.nlargest(MAX_TENANTS // 2, self._uses, key=lambda name: self.rank(name, now))
            self._uses = {name: self._uses[name] for name in kept}
