"""The places that tenants share: bounded in total, and a fair share for each tenant."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_policy.guidance.compile.shared_room import NoRoom, SharedRoom

LIMIT = 6
TENANTS = ("ada", "bob", "cyd")
STEPS = st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, 3)), max_size=20)


def filled(limit, **counts):
    room = SharedRoom(limit)
    for tenant, count in counts.items():
        room.add(tenant, [f"{tenant}{number}" for number in range(count)])
    return room


def counts_of(room):
    return Counter(item.rstrip("0123456789") for item in room)


def test_one_tenant_may_fill_all_places():
    assert len(filled(4, ada=4)) == 4


def test_a_tenant_with_fewer_items_takes_the_place_of_the_newest_of_the_fullest():
    room = filled(4, ada=3, bob=1)
    assert room.add("cyd", ["cyd0"]) == [("ada", "ada2")]
    assert room.first("ada") == "ada0"


def test_a_tenant_with_as_many_items_as_the_fullest_gets_no_place():
    room = filled(4, ada=2, bob=2)
    with pytest.raises(NoRoom) as raised:
        room.add("bob", ["bob2"])
    assert (raised.value.num_taken, raised.value.num_own, raised.value.limit) == (4, 2, 4)
    assert counts_of(room) == {"ada": 2, "bob": 2}


def test_an_exchange_that_only_swaps_the_tenants_is_refused():
    with pytest.raises(NoRoom):
        filled(3, ada=2, bob=1).add("bob", ["bob1"])


def test_several_new_items_displace_the_fullest_tenant_of_each_moment():
    room = filled(9, ada=5, bob=4)
    assert room.add("cyd", ["cyd0", "cyd1", "cyd2"]) == [("ada", "ada4"), ("ada", "ada3"), ("bob", "bob3")]
    assert counts_of(room) == {"ada": 3, "bob": 3, "cyd": 3}


def test_items_that_do_not_all_find_a_place_leave_the_room_unchanged():
    room = filled(4, ada=4)
    with pytest.raises(NoRoom):
        room.add("bob", ["bob0", "bob1", "bob2"])
    assert counts_of(room) == {"ada": 4}


def test_an_item_that_is_put_back_is_the_first_even_when_all_places_are_taken():
    room = filled(2, ada=2)
    room.put_back("ada", "again")
    room.put_back("ada", "ada1")
    assert room.first("ada") == "ada1"
    assert len(room) == 3


def test_removed_items_leave_their_places():
    room = filled(2, ada=2)
    room.remove("ada", "ada0")
    room.remove("ada", "unknown")
    room.remove("bob", "ada1")
    assert room.add("bob", ["bob0"]) == []
    room.remove("ada", "ada1")
    assert room.tenants() == ["bob"]


@settings(max_examples=200)
@given(STEPS)
def test_no_item_is_lost_and_the_total_is_bounded(steps):
    room, expected = SharedRoom(LIMIT), {tenant: [] for tenant in TENANTS}
    for number, (tenant, num_new) in enumerate(steps):
        items = [(number, position) for position in range(num_new)]
        try:
            displaced = room.add(tenant, items)
        except NoRoom:
            continue
        for loser, item in displaced:
            assert loser != tenant
            assert expected[loser].pop() == item
        expected[tenant] += items
        assert len(room) <= LIMIT
    assert sorted(room) == sorted(item for items in expected.values() for item in items)
    assert len(room) == sum(map(len, expected.values()))
    assert [room.first(tenant) for tenant in room.tenants()] == [expected[tenant][0] for tenant in room.tenants()]


@settings(max_examples=200)
@given(STEPS)
def test_each_tenant_is_sure_of_an_equal_share(steps):
    """A tenant with less than limit / tenants places gets one, and nobody is displaced below that."""
    room, counts = SharedRoom(LIMIT), Counter()
    for number, (tenant, _) in enumerate(steps):
        share = LIMIT // len({*room.tenants(), tenant})
        try:
            displaced = room.add(tenant, [number])
        except NoRoom:
            assert counts[tenant] >= share
            continue
        counts[tenant] += 1
        for loser, _ in displaced:
            counts[loser] -= 1
            assert counts[loser] >= share
