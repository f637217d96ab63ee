"""The order in which new guides are compiled: a queue for each tenant, and the tenant that used least time is next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import NamedTuple

from llm_policy.guidance.compile.child_time import ChildTime
from llm_policy.guidance.compile.guide_cache import Key
from llm_policy.guidance.compile.shared_room import SharedRoom

Tenant = str | None
"""A client's tenant; None for the release, whose registered schemas come first."""


class WaitingGuide(NamedTuple):
    """A guide that waits for a worker, and for whom."""

    tenant: Tenant
    key: Key


class FairQueue:
    """Guides wait first in, first out within their tenant. Not thread-safe.

    A guide that several tenants wait for stands in the queue of each of them, and leaves all at once.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: places of all tenants' guides together; those of the release have no limit."""
        self._release: OrderedDict[Key, None] = OrderedDict()
        self._room: SharedRoom[Key] = SharedRoom(limit)
        self._tenants_of: dict[Key, set[str]] = {}
        self._child_time = ChildTime()

    def __len__(self) -> int:
        return len(self._release) + len(self._tenants_of)

    def __contains__(self, key: Key) -> bool:
        return key in self._release or key in self._tenants_of

    def add(self, tenant: Tenant, keys: Sequence[Key]) -> list[Key]:
        """Let guides wait; the guides that lost their places, and that nobody waits for any more.

        Raises:
            NoRoom: the places are taken, and the tenant has its share of them; nothing was added.
        """
        if tenant is None:
            self._release.update(dict.fromkeys(keys))
            return []
        displaced = self._room.add(tenant, [key for key in keys if not self._room.has(tenant, key)])
        for key in keys:
            self._tenants_of.setdefault(key, set()).add(tenant)
        for loser, key in displaced:
            self._forget(loser, key)
        return [key for _, key in displaced if key not in self]

    def put_back(self, guide: WaitingGuide) -> None:
        """Let a guide that was taken wait again, as the first of its tenant."""
        if guide.tenant is None:
            self._release[guide.key] = None
            self._release.move_to_end(guide.key, last=False)
        else:
            self._room.put_back(guide.tenant, guide.key)
            self._tenants_of.setdefault(guide.key, set()).add(guide.tenant)

    def take(self, now: float, may_take: Callable[[WaitingGuide], bool]) -> WaitingGuide | None:
        """Remove the next guide: the release's, or the first one of the tenant that used least time.

        Tenants that used the same time take turns, at first the one with fewest guides. A tenant whose first guide does
        not satisfy `may_take` is left out.
        """
        candidates = [guide for guide in self._first_guides() if may_take(guide)]
        if not candidates:
            return None
        guide = min(candidates, key=lambda guide: self._rank(guide.tenant, now))
        self.discard(guide.key)
        if guide.tenant is not None:
            self._child_time.count_turn(guide.tenant, now)
        return guide

    def _first_guides(self) -> list[WaitingGuide]:
        release = [WaitingGuide(None, key) for key in islice(self._release, 1)]
        return release + [WaitingGuide(tenant, self._room.first(tenant)) for tenant in self._room.tenants()]

    def charge(self, tenant: Tenant, seconds: float, now: float) -> None:
        """Count time of a worker that was used for `tenant`."""
        if tenant is not None:
            self._child_time.add(tenant, seconds, now)

    def discard(self, key: Key) -> None:
        """Remove a guide from every queue."""
        self._release.pop(key, None)
        for tenant in self._tenants_of.pop(key, ()):
            self._room.remove(tenant, key)

    def retain(self, keys: Collection[Key]) -> None:
        """Remove all guides but `keys`."""
        for key in [key for key in (*self._release, *self._tenants_of) if key not in keys]:
            self.discard(key)

    def _rank(self, tenant: Tenant, now: float) -> tuple[float, int, int]:
        return (-1.0, 0, 0) if tenant is None else (*self._child_time.rank(tenant, now), self._room.count(tenant))

    def _forget(self, tenant: str, key: Key) -> None:
        self._tenants_of[key].discard(tenant)
        if not self._tenants_of[key]:
            del self._tenants_of[key]
