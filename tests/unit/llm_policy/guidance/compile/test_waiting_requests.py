"""The requests that wait for guides: taken out when they are complete, displaced or late."""

from math import inf

import pytest

from llm_policy.guidance.compile.shared_room import NoRoom
from llm_policy.guidance.compile.waiting_requests import WaitingRequest, WaitingRequests
from llm_policy.guidance.guide import Guide

A, B = ("regex", "a"), ("regex", "b")


def request(tenant, *keys, deadline=100.0, name=""):
    return WaitingRequest(tenant, [Guide(kind, text, name) for kind, text in keys], print, deadline, set(keys))


@pytest.fixture
def waiting():
    return WaitingRequests(limit=3)


def add(waiting, *requests):
    for item in requests:
        waiting.add(item)
    return requests


def arrivals(waiting):
    found = []
    while (item := waiting.next_arrival()) is not None:
        found.append(item)
    return found


def test_each_request_arrives_once_in_its_order(waiting):
    first, second = add(waiting, request("ada", A), request("bob", A))
    assert arrivals(waiting) == [first, second]
    assert arrivals(waiting) == []


def test_a_request_that_was_removed_does_not_arrive(waiting):
    first, second = add(waiting, request("ada", A), request("ada", A))
    waiting.remove(first)
    waiting.remove(first)
    assert arrivals(waiting) == [second]


def test_a_displaced_request_neither_arrives_nor_waits(waiting):
    *kept, displaced = add(waiting, request("ada", A), request("ada", A), request("ada", B))
    (new,) = add(waiting, request("bob", A))
    assert arrivals(waiting) == [*kept, new]
    assert waiting.take_displaced() == [displaced]
    assert waiting.take_displaced() == []
    assert waiting.missing() == {A}


def test_a_request_beyond_the_tenants_share_does_not_wait(waiting):
    add(waiting, *(request("ada", A) for _ in range(3)))
    with pytest.raises(NoRoom):
        add(waiting, request("ada", B))
    assert len(arrivals(waiting)) == 3
    assert waiting.missing() == {A}


def test_a_request_is_complete_when_its_last_guide_is(waiting):
    both, one = add(waiting, request("ada", A, B), request("bob", A))
    assert waiting.take_complete(A) == [one]
    assert waiting.missing() == {B}
    assert waiting.take_complete(B) == [both]
    assert waiting.missing() == set()


def test_requests_that_miss_one_of_several_guides_are_taken(waiting):
    both, _ = add(waiting, request("ada", A, B), request("bob", A))
    assert waiting.take_missing({B}) == [both]
    assert waiting.take_missing({B}) == []


def test_requests_can_be_taken_by_their_deadline(waiting):
    late, _ = add(waiting, request("ada", A, deadline=1.0), request("bob", A, deadline=2.0))
    assert waiting.next_deadline() == 1.0
    assert waiting.take_if(lambda item: item.deadline < 1.5) == [late]
    assert waiting.next_deadline() == 2.0
    assert waiting.take_if(lambda item: True)
    assert waiting.next_deadline() == inf


def test_the_wait_of_clients_guides_is_limited_and_that_of_registered_schemas_is_not(waiting):
    late, early, registered = add(
        waiting,
        request("ada", A, deadline=9.0),
        request("ada", A, deadline=1.0),
        request("ada", B, deadline=9.0, name="order"),
    )
    waiting.limit_wait(4.0)
    assert [item.deadline for item in (late, early, registered)] == [4.0, 1.0, 9.0]
