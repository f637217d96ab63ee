"""The order of a model's work: while requests of several tenants wait, the tenants take turns.

Triton hands a model its requests first in, first out, so a flood of one tenant would delay all others. Where several
tenants send, `execute` only takes their requests over, and a thread works on them and sends their responses. That takes
more processor time, so Triton's thread does the work itself while there is one tenant, or no load.

Turns alone are not enough where one tenant always has more: all processes would be busy with it, and each step of
another tenant's request would wait for a processor. So beside others a tenant that has more waiting rests after a turn
of its own, for as long as that took. Tenants that all have more waiting share their turns, and do not rest.

A response that `execute` returns while another thread sends one crashes tritonserver (seen in each of three floods). So
`execute` returns responses only while the thread has nothing to send, neither now nor soon.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import triton_python_backend_utils as pb_utils

from llm_policy.rules.headers import CANARY_TENANT
from llm_policy.triton.error_responses import as_policy_error, error_response, internal_fault
from llm_policy.triton.tenant_queues import MAX_WAITING, TenantQueues

MAX_BATCH = 4
"""The most items of one piece of work, which are one transaction of the ledger."""
MAX_SHARED_BATCH = 2
"""The same while several tenants send, who wait for the end of each piece: smaller ones cost throughput."""
MAX_DISPLACED, MAX_DISPLACED_ALONE = 1, 16
"""The most displaced items of one piece of work, and of one while nothing else waits."""
SWITCH_S = 0.0005
"""A thread keeps Python's lock for so long while another wants it: Python's own 5 ms would delay each response."""
SHARED_S = 600.0
"""For so long after requests of several tenants came, more are expected."""
BESIDE_S = 1.0
"""For so long after a tenant's request followed one of another tenant, tenants rest."""
QUIET_S = 0.002
"""After such a pause nothing waits in Triton's queue: a request takes about as long itself."""


class Answerable(Protocol):
    """A request that was read."""

    @property
    def sender(self) -> Any:
        """Triton's response sender."""


_DISPLACED = None
"""Stands in a tenant's place for the displaced items, whosever they are."""
Item = TypeVar("Item", bound=Answerable)
Work = Callable[[Sequence[Item]], Sequence[Any]]
_Entry = tuple[str | None, Item]  # with its tenant


class FairWorker(Generic[Item]):
    """Calls `work` with items in the tenants' turns, never twice at once, and sends the responses that it returns.

    A response of None is sent later: by `answer_later`, which `defer` announces, or without this worker. `displace`
    turns an item that lost its place into one that `work` refuses; without it no item loses its place.
    """

    def __init__(self, work: Work[Item], name: str, displace: Callable[[Item], Item] | None = None) -> None:
        self._work, self._displace = work, displace
        self._queues: TenantQueues[_Entry[Item]] = TenantQueues()
        self._rests_until_s: dict[str | None, float] = {}  # by tenant
        self._displaced: deque[_Entry[Item]] = deque()
        self._late_answers: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._is_working = self._is_closing = False
        self._num_deferred = 0
        self._last_tenant: str | None = None
        self._last_s, self._changed_tenant_s, self._shared_until_s = 0.0, 0.0, 0.0
        sys.setswitchinterval(SWITCH_S)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def handle(self, tenants: Sequence[str], items: Sequence[Item]) -> Sequence[Any]:
        """What `execute` returns for `items` of `tenants`: the responses, or None for each if the thread sends them."""
        if not self._may_begin(tenants):
            self._add(tenants, items)
            return [None] * len(items)
        try:
            responses = self._work(items)
            if self._num_deferred == 0:
                return responses
            self._send(items, responses)
            return [None] * len(items)
        finally:
            with self._changed:
                self._is_working, self._last_s = False, time.monotonic()
                self._changed.notify()

    def defer(self) -> None:
        """Announce an `answer_later`; `work` calls this before it returns."""
        with self._changed:
            self._num_deferred += 1

    def answer_later(self, answer: Callable[[], None]) -> None:
        """Run `answer`, which sends a response, on the thread, before anything that waits."""
        with self._changed:
            self._late_answers.append(answer)
            self._changed.notify()

    def close(self) -> None:
        """End the thread once nothing waits."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def _is_waiting(self) -> bool:
        return bool(self._queues or self._displaced or self._late_answers)

    def _may_begin(self, tenants: Sequence[str]) -> bool:
        """Whether Triton's thread works now."""
        now = time.monotonic()
        self._note(tenants, now)
        with self._changed:
            is_quiet = not self._is_shared(now) or now - self._last_s > QUIET_S
            if (
                is_quiet
                and len(tenants) <= MAX_BATCH
                and not (self._is_working or self._is_waiting or self._num_deferred)
            ):
                self._is_working = True
                return True
        return False

    def _is_shared(self, now: float) -> bool:
        return now < self._shared_until_s

    def _note(self, tenants: Sequence[str], now: float) -> None:
        for tenant in tenants:
            if tenant not in (self._last_tenant, CANARY_TENANT):
                if self._last_tenant is not None:
                    self._changed_tenant_s, self._shared_until_s = now, now + SHARED_S
                self._last_tenant = tenant

    def _add(self, tenants: Sequence[str], items: Sequence[Item]) -> None:
        with self._changed:
            for tenant, item in zip(tenants, items, strict=True):
                self._queues.add(tenant, (tenant, item))
                if self._displace is not None and len(self._queues) > MAX_WAITING:
                    _, displaced = self._queues.displace()
                    self._displaced.append((_DISPLACED, self._displace(displaced)))
            self._last_s = time.monotonic()
            self._changed.notify()

    def _run(self) -> None:
        while work := self._next():
            try:
                work()
            except BaseException as error:
                internal_fault(error)  # a bug must not end the thread
            with self._changed:
                self._is_working = False

    def _next(self) -> Callable[[], None] | None:
        """The next work, once there is some. None at the end."""
        with self._changed:
            while True:
                if not self._is_working and (work := self._take()):
                    self._is_working = True
                    return work
                if self._is_closing and not (self._is_working or self._is_waiting):
                    return None
                self._changed.wait(self._shortest_rest_s())

    def _take(self) -> Callable[[], None] | None:
        if self._late_answers:
            self._num_deferred -= 1
            return self._late_answers.popleft()
        now = time.monotonic()
        self._rests_until_s = {tenant: until_s for tenant, until_s in self._rests_until_s.items() if until_s > now}
        items = self._queues.take(MAX_SHARED_BATCH if self._is_shared(now) else MAX_BATCH, self._rests_until_s)
        if _DISPLACED not in self._rests_until_s:
            is_alone = not items and not self._queues
            num_displaced = min(MAX_DISPLACED_ALONE if is_alone else MAX_DISPLACED, len(self._displaced))
            items += [self._displaced.popleft() for _ in range(num_displaced)]
        return (lambda: self._work_and_send(items)) if items else None

    def _shortest_rest_s(self) -> float | None:
        """How long to wait if all that waits is resting; None if nothing waits, or somebody works."""
        if self._is_working or not self._rests_until_s:
            return None
        return max(0.0, min(self._rests_until_s.values()) - time.monotonic())

    def _rest(self, tenants: set[str | None], took_s: float) -> None:
        """Let the tenant of a turn rest if it has more waiting. Several tenants of one turn let each other's pass."""
        now = time.monotonic()
        if len(tenants - {_DISPLACED}) > 1 or now - self._changed_tenant_s > BESIDE_S:
            return
        for tenant in tenants:
            has_more = bool(self._displaced) if tenant is _DISPLACED else tenant in self._queues
            if has_more:
                self._rests_until_s[tenant] = now + took_s

    def _work_and_send(self, entries: Sequence[_Entry[Item]]) -> None:
        began_s = time.monotonic()
        tenants, items = zip(*entries, strict=True)
        try:
            responses = self._work(items)
        except BaseException as error:
            responses = [error_response(as_policy_error(error))] * len(items)
        self._send(items, responses)
        with self._changed:
            self._rest({*tenants}, time.monotonic() - began_s)

    @staticmethod
    def _send(items: Sequence[Item], responses: Sequence[Any]) -> None:
        for item, response in zip(items, responses, strict=True):
            if response is not None:
                send(item.sender, response)


def send(sender: Any, response: Any) -> None:
    """Send a request's only response; one that can't be sent must not keep the others from theirs."""
    try:
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:
        internal_fault(error)
