"""A bounded number of places that tenants share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class NoRoom(Exception):
    """All places are taken, and the tenant has its share of them."""

    def __init__(self, num_taken: int, num_own: int, limit: int) -> None:
        super().__init__(num_taken, num_own, limit)
        self.num_taken, self.num_own, self.limit = num_taken, num_own, limit


class SharedRoom(Generic[Item]):
    """The items of each tenant in their order, `limit` in total.

    One tenant may fill all places. When they are full, a tenant with fewer items takes the place of the newest item of
    the tenant that has most. So among n tenants, each one is sure of `limit // n` places.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._num_items = 0
        self._tenants: dict[str, OrderedDict[Item, None]] = {}

    def __len__(self) -> int:
        return self._num_items

    def __iter__(self) -> Iterator[Item]:
        """All items; the tenants in no certain order."""
        return (item for items in self._tenants.values() for item in items)

    def tenants(self) -> list[str]:
        """The tenants that have items."""
        return list(self._tenants)

    def count(self, tenant: str) -> int:
        """The number of items of `tenant`."""
        return len(self._tenants.get(tenant, ()))

    def first(self, tenant: str) -> Item:
        """The oldest item of `tenant`, which must have one."""
        return next(iter(self._tenants[tenant]))

    def has(self, tenant: str, item: Item) -> bool:
        """Whether `tenant` has `item`."""
        return item in self._tenants.get(tenant, ())

    def add(self, tenant: str, items: Sequence[Item]) -> list[tuple[str, Item]]:
        """Add `items`, none of which the tenant has; the tenants and items that lose their places.

        Raises:
            NoRoom: nothing was added.
        """
        displaced = [self._remove_newest(victim) for victim in self._victims(tenant, len(items))]
        if items:
            self._tenants.setdefault(tenant, OrderedDict()).update(dict.fromkeys(items))
            self._num_items += len(items)
        return displaced

    def put_back(self, tenant: str, item: Item) -> None:
        """Add `item` as the tenant's oldest one, also beyond the limit."""
        items = self._tenants.setdefault(tenant, OrderedDict())
        self._num_items += item not in items
        items[item] = None
        items.move_to_end(item, last=False)

    def remove(self, tenant: str, item: Item) -> None:
        """Remove `item`, if the tenant has it."""
        if self.has(tenant, item):
            del self._tenants[tenant][item]
            self._drop_place(tenant)

    def _victims(self, tenant: str, num_new: int) -> list[str]:
        """For each missing place, the tenant whose newest item has to go."""
        counts = {other: len(items) for other, items in self._tenants.items()}
        num_own = counts.pop(tenant, 0)
        victims = []
        for _ in range(self._num_items + num_new - self._limit):
            fullest = max(counts, key=counts.__getitem__, default=None)
            if fullest is None or counts[fullest] <= num_own + num_new:
                raise NoRoom(self._num_items, num_own, self._limit)
            counts[fullest] -= 1
            victims.append(fullest)
        return victims

    def _remove_newest(self, tenant: str) -> tuple[str, Item]:
        item, _ = self._tenants[tenant].popitem()
        self._drop_place(tenant)
        return tenant, item

    def _drop_place(self, tenant: str) -> None:
        self._num_items -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]
