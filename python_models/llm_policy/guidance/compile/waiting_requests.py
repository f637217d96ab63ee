"""The requests that wait for guides, from their arrival to their answer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import inf

from llm_policy.errors import PolicyError
from llm_policy.guidance.compile.guide_cache import Key
from llm_policy.guidance.compile.shared_room import SharedRoom
from llm_policy.guidance.guide import Guide

Callback = Callable[[PolicyError | None], None]


@dataclass(eq=False)
class WaitingRequest:
    """A request that waits until all its guides are compiled."""

    tenant: str
    guides: list[Guide]
    callback: Callback
    deadline: float
    """Monotonic time at which it is rejected."""
    missing: set[Key]

    @property
    def is_registered(self) -> bool:
        """Whether all its guides are registered schemas."""
        return all(guide.name for guide in self.guides)


class WaitingRequests:
    """At most `limit` requests, shared between tenants. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()
        self._room: SharedRoom[WaitingRequest] = SharedRoom(limit)
        self._arrivals: deque[WaitingRequest] = deque()
        self._displaced: list[WaitingRequest] = []

    def add(self, request: WaitingRequest) -> None:
        """Let a request wait. It may displace one of another tenant.

        Raises:
            NoRoom: the places are taken, and the tenant has its share of them.
        """
        with self._lock:
            displaced = [item for _, item in self._room.add(request.tenant, [request])]
            self._displaced += displaced
            for item in displaced:
                if item in self._arrivals:
                    self._arrivals.remove(item)
            self._arrivals.append(request)

    def next_arrival(self) -> WaitingRequest | None:
        """The oldest request that was not returned yet and still waits."""
        with self._lock:
            while self._arrivals:
                request = self._arrivals.popleft()
                if self._room.has(request.tenant, request):
                    return request
        return None

    def take_displaced(self) -> list[WaitingRequest]:
        """The requests that lost their places since the last call."""
        with self._lock:
            displaced, self._displaced = self._displaced, []
            return displaced

    def remove(self, request: WaitingRequest) -> None:
        """Remove a request, if it still waits."""
        with self._lock:
            self._room.remove(request.tenant, request)

    def take_if(self, condition: Callable[[WaitingRequest], bool]) -> list[WaitingRequest]:
        """Remove and return the requests that satisfy `condition`."""
        with self._lock:
            taken = [request for request in self._room if condition(request)]
            for request in taken:
                self._room.remove(request.tenant, request)
            return taken

    def take_complete(self, key: Key) -> list[WaitingRequest]:
        """Remove and return the requests for which `key` was the last missing guide."""

        def is_complete(request: WaitingRequest) -> bool:
            request.missing.discard(key)
            return not request.missing

        return self.take_if(is_complete)

    def take_missing(self, keys: Collection[Key]) -> list[WaitingRequest]:
        """Remove and return the requests that miss one of `keys`."""
        return self.take_if(lambda request: not request.missing.isdisjoint(keys))

    def limit_wait(self, deadline: float) -> None:
        """Reject the requests with clients' guides at `deadline` (monotonic) at the latest."""
        with self._lock:
            for request in self._room:
                if not request.is_registered:
                    request.deadline = min(request.deadline, deadline)

    def missing(self) -> set[Key]:
        """The guides that requests wait for."""
        with self._lock:
            return {key for request in self._room for key in request.missing}

    def next_deadline(self) -> float:
        """The earliest deadline; infinite if no request waits."""
        with self._lock:
            return min((request.deadline for request in self._room), default=inf)
