"""The queue of new guides: first in, first out within a tenant, and the tenant that used least time is next."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_policy.guidance.compile.fair_queue import FairQueue, WaitingGuide
from llm_policy.guidance.compile.shared_room import NoRoom

LIMIT = 8
TENANTS = ("ada", "bob", "cyd")


def keys(prefix, count):
    return [("regex", f"{prefix}{number}") for number in range(count)]


def anyone(guide):
    return True


def taken(queue, now=0.0, may_take=anyone):
    """The texts of all guides in the order in which they are taken."""
    texts = []
    while (guide := queue.take(now, may_take)) is not None:
        texts.append(guide.key[1])
    return texts


def test_tenants_without_recent_use_take_turns_and_the_one_with_fewest_guides_is_first():
    queue = FairQueue(LIMIT)
    queue.add("ada", keys("a", 3))
    queue.add("bob", keys("b", 2))
    assert taken(queue) == ["b0", "a0", "b1", "a1", "a2"]


def test_the_tenant_that_used_least_time_is_next():
    queue = FairQueue(LIMIT)
    for tenant, seconds in (("ada", 3.0), ("bob", 1.0)):
        queue.add(tenant, keys(tenant, 2))
        queue.charge(tenant, seconds, 0.0)
    queue.add("cyd", keys("cyd", 1))
    assert taken(queue) == ["cyd0", "bob0", "bob1", "ada0", "ada1"]


def test_time_used_long_ago_counts_less():
    queue = FairQueue(LIMIT)
    queue.charge("ada", 3.0, 0.0)
    queue.charge("bob", 1.0, 300.0)
    queue.add("ada", keys("a", 1))
    queue.add("bob", keys("b", 1))
    assert taken(queue, now=300.0) == ["a0", "b0"]


def test_registered_schemas_come_first_and_have_no_limit():
    queue = FairQueue(1)
    queue.add("ada", keys("a", 1))
    queue.add(None, keys("r", 5))
    queue.charge(None, 9.0, 0.0)
    assert taken(queue) == ["r0", "r1", "r2", "r3", "r4", "a0"]


def test_a_tenant_whose_first_guide_has_to_wait_is_left_out():
    queue = FairQueue(LIMIT)
    queue.add("ada", keys("a", 2))
    queue.add("bob", keys("b", 2))
    assert taken(queue, may_take=lambda guide: guide.tenant != "ada") == ["b0", "b1"]
    assert taken(queue) == ["a0", "a1"]


def test_a_guide_of_two_tenants_leaves_both_queues_at_once():
    queue = FairQueue(LIMIT)
    queue.add("ada", [*keys("a", 3), *keys("both", 1)])
    queue.add("bob", keys("both", 1))
    assert len(queue) == 4
    assert taken(queue) == ["both0", "a0", "a1", "a2"]
    assert queue.add("ada", keys("more", LIMIT)) == []


def test_a_guide_that_is_added_twice_takes_one_place():
    queue = FairQueue(1)
    queue.add("ada", keys("a", 1))
    queue.add("ada", keys("a", 1))
    assert taken(queue) == ["a0"]


def test_a_guide_that_loses_one_of_two_places_still_waits():
    queue = FairQueue(4)
    queue.add("ada", [*keys("a", 2), *keys("both", 1)])
    queue.add("bob", keys("both", 1))
    assert queue.add("cyd", keys("c", 1)) == []
    assert ("regex", "both0") in queue
    assert queue.take(0.0, lambda guide: guide.tenant == "bob") == WaitingGuide("bob", ("regex", "both0"))


def test_a_displaced_guide_that_nobody_waits_for_is_returned_and_gone():
    queue = FairQueue(2)
    queue.add("ada", keys("a", 2))
    assert queue.add("bob", keys("b", 1)) == keys("a", 2)[1:]
    assert taken(queue) == ["a0", "b0"]


def test_a_refused_addition_changes_nothing():
    queue = FairQueue(2)
    queue.add("ada", keys("a", 2))
    with pytest.raises(NoRoom):
        queue.add("ada", keys("more", 1))
    assert ("regex", "more0") not in queue
    assert taken(queue) == ["a0", "a1"]


@pytest.mark.parametrize("tenant", ["ada", None])
def test_a_guide_that_is_put_back_is_the_first_of_its_tenant(tenant):
    queue = FairQueue(2)
    queue.add(tenant, keys("a", 2))
    guide = queue.take(0.0, anyone)
    queue.put_back(guide)
    assert guide.key in queue
    assert taken(queue) == ["a0", "a1"]


def test_guides_that_nobody_wants_any_more_leave_the_queue():
    queue = FairQueue(LIMIT)
    queue.add("ada", keys("a", 3))
    queue.add(None, keys("r", 2))
    queue.retain({("regex", "a1"), ("regex", "r1")})
    assert len(queue) == 2
    assert taken(queue) == ["r1", "a1"]


ADDITIONS = st.tuples(st.sampled_from(TENANTS), st.integers(0, 5))
STEPS = st.lists(ADDITIONS | st.sampled_from([0.0, 0.01, 1.0]), max_size=30)
"""A tenant that wants a guide, or a guide that is taken and costs this many seconds."""


@settings(max_examples=200)
@given(STEPS)
def test_guides_are_first_in_first_out_within_a_tenant_and_none_is_lost(steps):
    queue, expected = FairQueue(LIMIT), {tenant: [] for tenant in TENANTS}
    for now, step in enumerate(steps):
        if isinstance(step, float):
            guide = queue.take(float(now), anyone)
            assert (guide is None) == (not any(expected.values()))
            if guide is not None:
                queue.charge(guide.tenant, step, float(now))
                assert expected[guide.tenant][0] == guide.key
                for waiting in expected.values():
                    waiting[:] = [key for key in waiting if key != guide.key]
            continue
        tenant, number = step
        key = ("regex", str(number))
        try:
            displaced = queue.add(tenant, [key])
        except NoRoom:
            continue
        if key not in expected[tenant]:
            expected[tenant].append(key)
        if sum(map(len, expected.values())) > LIMIT:
            fullest = max((len(waiting), name) for name, waiting in expected.items() if name != tenant)[0]
            losers = [name for name in TENANTS if len(expected[name]) == fullest and name != tenant]
            loser = next(name for name in losers if not remains(queue, name, expected[name][-1]))
            lost = expected[loser].pop()
            assert displaced == ([] if any(lost in waiting for waiting in expected.values()) else [lost])
        assert len(queue) <= LIMIT
    assert len(queue) == len({key for waiting in expected.values() for key in waiting})


def remains(queue, tenant, key):
    return queue._room.has(tenant, key)


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.01, 0.5, 3.0]), min_size=12, max_size=12), st.integers(1, 3))
def test_no_tenant_starves_while_others_keep_their_queues_full(costs, num_floods):
    """While all want more than there is, no tenant gets ahead of another by more than one guide's time."""
    queue, used = FairQueue(64), Counter()
    tenants = [f"tenant{number}" for number in range(num_floods + 1)]
    for number, cost in enumerate(costs):
        for tenant in tenants:
            queue.add(tenant, [("regex", f"{tenant} {number}")])
        guide = queue.take(0.0, anyone)
        assert used[guide.tenant] == min(used[tenant] for tenant in tenants)
        queue.charge(guide.tenant, cost, 0.0)
        used[guide.tenant] += cost
    assert max(used.values()) - min(used[tenant] for tenant in tenants) <= max(costs)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(TENANTS), st.integers(1, 20), min_size=1), st.floats(0.001, 10.0))
def test_a_new_tenants_guide_is_the_next_however_many_others_wait(floods, cost):
    queue = FairQueue(64)
    for tenant, count in floods.items():
        queue.add(tenant, keys(tenant, count))
        queue.charge(tenant, cost, 0.0)
    queue.add("newcomer", keys("first", 1))
    assert queue.take(1.0, anyone).tenant == "newcomer"
