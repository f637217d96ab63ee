"""Requests that wait: first in, first out within their tenant, and the tenants take turns."""

from hypothesis import given
from hypothesis import strategies as st

from llm_policy.triton.tenant_queues import TenantQueues

ITEMS = st.lists(st.sampled_from("abc"), max_size=30)


def queues_of(tenants):
    """Each item is its tenant and its number in the whole order."""
    queues = TenantQueues()
    for number, tenant in enumerate(tenants):
        queues.add(tenant, (tenant, number))
    return queues


def test_a_tenant_that_comes_last_is_second():
    assert queues_of("aaaaab").take(3) == [("a", 0), ("b", 5), ("a", 1)]


def test_one_tenant_may_use_every_turn():
    assert queues_of("aaa").take(2) == [("a", 0), ("a", 1)]


def test_a_tenant_whose_turn_was_last_waits_for_the_others():
    queues = queues_of("ab")
    assert queues.take(1) == [("a", 0)]
    queues.add("a", ("a", 2))
    assert queues.take(2) == [("b", 1), ("a", 2)]


def test_the_tenant_that_has_most_loses_its_newest_item():
    queues = queues_of("abbac")
    queues.add("b", ("b", 5))
    assert queues.displace() == ("b", 5)
    assert len(queues) == 5


def test_the_last_item_of_a_tenant_may_be_displaced():
    queues = queues_of("a")
    assert queues.displace() == ("a", 0)
    assert (len(queues), queues.take(1)) == (0, [])


@given(ITEMS, st.integers(1, 5))
def test_everything_is_taken_once_in_the_order_of_its_tenant(tenants, limit):
    queues, taken = queues_of(tenants), []
    while items := queues.take(limit):
        assert len(items) <= limit
        taken += items
    assert sorted(taken, key=lambda item: item[1]) == list(zip(tenants, range(len(tenants)), strict=True))
    for tenant in "abc":
        own = [number for name, number in taken if name == tenant]
        assert own == sorted(own)


@given(ITEMS)
def test_nobody_has_two_turns_more_than_another_who_waits(tenants):
    queues = queues_of(tenants)
    left, turns = {name: tenants.count(name) for name in "abc"}, dict.fromkeys("abc", 0)
    while items := queues.take(1):
        ((tenant, _),) = items
        left[tenant] -= 1
        turns[tenant] += 1
        assert all(turns[tenant] - turns[other] <= 1 for other in "abc" if left[other])


@given(ITEMS, st.sets(st.sampled_from("abc")))
def test_tenants_that_are_resting_keep_their_items_and_their_turns(tenants, resting):
    queues = queues_of(tenants)
    taken = queues.take(len(tenants), resting)
    assert [tenant for tenant, _ in taken if tenant in resting] == []
    assert {tenant for tenant in "abc" if tenant in queues} == resting & {*tenants}
    assert len(taken) + len(queues) == len(tenants)
