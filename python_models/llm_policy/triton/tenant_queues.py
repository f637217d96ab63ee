"""Requests that wait: a queue for each tenant, and the tenants take turns."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from typing import Generic, TypeVar

MAX_WAITING = 1_024
"""The most items that wait for admission; then the tenant that has most loses its newest one."""
Item = TypeVar("Item")


class TenantQueues(Generic[Item]):
    """What waits, first in, first out within its tenant. Not thread-safe."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[Item]] = OrderedDict()  # the next turn first; no queue is empty
        self._num_items = 0

    def __len__(self) -> int:
        return self._num_items

    def add(self, tenant: str, item: Item) -> None:
        """Let `item` wait; the first of a tenant waits for the turns of all others."""
        self._queues.setdefault(tenant, deque()).append(item)
        self._num_items += 1

    def __contains__(self, tenant: str | None) -> bool:
        """Whether something of `tenant` waits."""
        return tenant in self._queues

    def take(self, limit: int, resting: Collection[str | None] = ()) -> list[Item]:
        """Remove up to `limit` items: the oldest of each tenant in turn. Tenants that are resting keep theirs."""
        taken: list[Item] = []
        while len(taken) < limit:
            tenant = next((tenant for tenant in self._queues if tenant not in resting), None)
            if tenant is None:
                break
            queue = self._queues.pop(tenant)
            taken.append(queue.popleft())
            if queue:
                self._queues[tenant] = queue
        self._num_items -= len(taken)
        return taken

    def displace(self) -> Item:
        """Remove the newest item of the tenant that has most. Something must wait."""
        tenant = max(self._queues, key=lambda name: len(self._queues[name]))
        queue = self._queues[tenant]
        item = queue.pop()
        if not queue:
            del self._queues[tenant]
        self._num_items -= 1
        return item
