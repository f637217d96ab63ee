"""The queue in front of an engine that serves its requests in the order of arrival: tenants share the engine equally.

At most `max_running` requests are in the engine. Of the waiting ones, the next is the oldest of the tenant with the
fewest in the engine; of several such tenants, of the one whose last turn was longest ago. The server's own canary never
waits, so that load can't keep it from an answer. A request that would be one too many is rejected.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from engine_process.engine import EngineFailure
from engine_process.messages import CANARY_TENANT


class RequestQueue:
    """The running and the waiting requests. Used on one asyncio loop."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._max_running, self._max_waiting = max_running, max_waiting
        self._running: Counter[str] = Counter()  # by tenant
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by tenant, oldest first; no queue is empty
        self._turns: dict[str, int] = {}  # of tenants that run or wait: when their last request was let in
        self._num_turns = 0

    @property
    def num_running(self) -> int:
        """The requests in the engine, without the canary's."""
        return self._running.total()

    @property
    def num_waiting(self) -> int:
        """The requests that wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def slot(self, tenant: str) -> AsyncIterator[None]:
        """Hold a place in the engine; waits for one.

        Raises:
            EngineFailure: too many requests wait.
        """
        if tenant == CANARY_TENANT:
            yield
            return
        await self._enter(tenant)
        try:
            yield
        finally:
            self._leave(tenant)

    async def _enter(self, tenant: str) -> None:
        if self.num_running < self._max_running and not self._waiting:
            self._let_in(tenant)
            return
        if self.num_waiting >= self._max_waiting:
            raise EngineFailure(
                "overloaded", f"{self.num_waiting} requests wait for the engine, limit {self._max_waiting}"
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._withdraw(tenant, turn)
            raise

    def _withdraw(self, tenant: str, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():  # it was let in at the same moment
            self._leave(tenant)
            return
        queue = self._waiting.get(tenant)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self._drop_if_empty(tenant)

    def _let_in(self, tenant: str) -> None:
        self._num_turns += 1
        self._turns[tenant] = self._num_turns
        self._running[tenant] += 1

    def _leave(self, tenant: str) -> None:
        self._running[tenant] -= 1
        while self._waiting and self.num_running < self._max_running:
            self._admit_next()
        if not self._running[tenant]:
            del self._running[tenant]
            if tenant not in self._waiting:
                self._turns.pop(tenant, None)

    def _admit_next(self) -> None:
        tenant = min(self._waiting, key=lambda name: (self._running[name], self._turns.get(name, 0)))
        turn = self._waiting[tenant].popleft()
        self._drop_if_empty(tenant)
        if not turn.done():
            self._let_in(tenant)
            turn.set_result(None)

    def _drop_if_empty(self, tenant: str) -> None:
        if not self._waiting[tenant]:
            del self._waiting[tenant]
