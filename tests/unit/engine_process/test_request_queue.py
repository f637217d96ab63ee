"""Tenants share an engine that serves in the order of arrival."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from engine_process.engine import EngineFailure
from engine_process.messages import CANARY_TENANT
from engine_process.request_queue import RequestQueue


class Requests:
    """Requests that hold their slots until they are released; `order` lists those that got in."""

    def __init__(self, queue):
        self._queue = queue
        self._stacks = {}
        self.order = []
        self.tasks = {}

    async def send(self, name, tenant):
        async def run():
            stack = self._stacks[name] = AsyncExitStack()
            await stack.enter_async_context(self._queue.slot(tenant))
            self.order.append(name)

        self.tasks[name] = asyncio.create_task(run())
        await settle()

    async def release(self, name):
        await self._stacks[name].aclose()
        await settle()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def scenario(test):
    """Runs an async test."""

    def run():
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@scenario
async def test_as_many_requests_run_as_there_are_slots():
    requests = Requests(queue := RequestQueue(2, 10))
    for name in "abc":
        await requests.send(name, "t")
    assert (requests.order, queue.num_running, queue.num_waiting) == (["a", "b"], 2, 1)
    await requests.release("a")
    assert (requests.order, queue.num_running, queue.num_waiting) == (["a", "b", "c"], 2, 0)


@scenario
async def test_a_tenant_with_fewer_running_requests_goes_first():
    requests = Requests(RequestQueue(2, 10))
    for name in ("a1", "a2", "a3", "a4"):
        await requests.send(name, "a")
    await requests.send("b1", "b")
    await requests.release("a1")
    assert requests.order == ["a1", "a2", "b1"]
    await requests.release("a2")
    assert requests.order[-1] == "a3"


@scenario
async def test_tenants_with_equal_shares_take_turns():
    requests = Requests(RequestQueue(1, 10))
    for name in ("a1", "a2", "b1", "b2", "c1"):
        await requests.send(name, name[0])
    for _ in range(4):
        await requests.release(requests.order[-1])
    assert requests.order == ["a1", "b1", "c1", "a2", "b2"]


@scenario
async def test_the_canary_never_waits():
    requests = Requests(queue := RequestQueue(1, 0))
    await requests.send("a", "t")
    await requests.send("canary", CANARY_TENANT)
    assert (requests.order, queue.num_running) == (["a", "canary"], 1)


@scenario
async def test_one_request_too_many_is_rejected():
    requests = Requests(RequestQueue(1, 1))
    for name in "abc":
        await requests.send(name, "t")
    with pytest.raises(EngineFailure, match="1 requests wait for the engine, limit 1") as caught:
        await requests.tasks["c"]
    assert caught.value.code == "overloaded"


@scenario
async def test_a_waiting_request_that_is_cancelled_leaves_the_queue():
    requests = Requests(queue := RequestQueue(1, 10))
    for name in "abc":
        await requests.send(name, "t")
    requests.tasks["b"].cancel()
    await settle()
    await requests.release("a")
    assert (requests.order, queue.num_running, queue.num_waiting) == (["a", "c"], 1, 0)
    await requests.release("c")
    assert (queue.num_running, queue._turns) == (0, {})


@scenario
async def test_a_request_that_is_cancelled_as_it_gets_its_slot_gives_it_back():
    requests = Requests(queue := RequestQueue(1, 10))
    for name in "ab":
        await requests.send(name, "t")
    await requests._stacks["a"].aclose()  # b has its slot now, and its task did not run since
    requests.tasks["b"].cancel()
    await settle()
    assert (queue.num_running, queue.num_waiting) == (0, 0)
