"""The new guides of a minute: one limit for the server, shared between the tenants that are active."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_policy.errors import Unavailable
from llm_policy.guidance.compile.adhoc_rate import WINDOW_S, AdhocRate


def is_admitted(rate, tenant, now=0.0, num_new=1):
    try:
        rate.check(tenant, num_new, now)
    except Unavailable:
        return False
    rate.add(tenant, num_new, now)
    return True


def send_until_refused(rate, *tenants, now=0.0):
    """The guides that each tenant gets admitted, if they send in turn until none is admitted any more."""
    admitted = Counter()
    while accepted := [tenant for tenant in tenants if is_admitted(rate, tenant, now)]:
        admitted.update(accepted)
    return [admitted[tenant] for tenant in tenants]


def test_a_tenant_alone_may_use_three_quarters_of_the_limit():
    assert send_until_refused(AdhocRate(120), "ada") == [90]


def test_the_error_names_the_tenants_share_and_the_servers_limit():
    rate = AdhocRate(120)
    send_until_refused(rate, "ada")
    with pytest.raises(
        Unavailable,
        match=r"^guidance_unavailable: 90 new guides of this tenant came within a minute, "
        r"limit 90 of the server's 120 \(max_adhoc_per_minute\); try again later$",
    ):
        rate.check("ada", 1, 0.0)


def test_the_error_at_the_servers_limit_names_all_tenants():
    rate = AdhocRate(2)
    assert is_admitted(rate, "ada")
    assert is_admitted(rate, "bob")
    with pytest.raises(Unavailable, match=r": 2 new guides of all tenants came within a minute, limit 2 \(max_adhoc"):
        rate.check("cyd", 1, 0.0)


@pytest.mark.parametrize(("num_tenants", "share"), [(2, 52), (3, 35), (5, 21)])
def test_tenants_that_send_at_the_same_time_get_equal_shares(num_tenants, share):
    tenants = [f"tenant{number}" for number in range(num_tenants)]
    assert all(abs(count - share) <= 1 for count in send_until_refused(AdhocRate(120), *tenants))


def test_first_guides_of_other_tenants_are_admitted_after_two_floods():
    rate = AdhocRate(120)
    assert send_until_refused(rate, "ada") == [90]
    assert send_until_refused(rate, "bob") == [15]
    assert [is_admitted(rate, f"tenant{number}") for number in range(16)] == [True] * 15 + [False]


def test_a_tenants_small_need_leaves_the_rest_to_the_others():
    rate = AdhocRate(120)
    assert is_admitted(rate, "bob")
    assert send_until_refused(rate, "ada") == [90]


def test_guides_older_than_a_minute_do_not_count():
    rate = AdhocRate(120)
    send_until_refused(rate, "ada", now=5.0)
    assert not is_admitted(rate, "ada", now=4.9 + WINDOW_S)
    assert send_until_refused(rate, "ada", now=5.0 + WINDOW_S) == [90]


def test_a_request_with_more_guides_than_the_share_is_refused_whole():
    rate = AdhocRate(8)
    assert not is_admitted(rate, "ada", num_new=7)
    assert is_admitted(rate, "ada", num_new=6)


@pytest.mark.parametrize(("limit", "expected"), [(0, 0), (1, 1), (2, 1), (4, 3)])
def test_a_small_limit_admits_a_first_guide_if_it_admits_any(limit, expected):
    assert send_until_refused(AdhocRate(limit), "ada") == [expected]


SENT = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3), st.floats(0.0, 40.0)), max_size=40)


@settings(max_examples=200)
@given(st.integers(1, 24), SENT)
def test_no_minute_has_more_guides_than_the_limit(limit, sent):
    rate, now, admitted = AdhocRate(limit), 0.0, []
    for tenant, num_new, pause_s in sent:
        now += pause_s
        if is_admitted(rate, tenant, now, num_new):
            admitted += [now] * num_new
        assert sum(time > now - WINDOW_S for time in admitted) <= limit


@settings(max_examples=100)
@given(st.integers(1, 200))
def test_one_tenants_flood_leaves_room_for_anothers_first_guide(limit):
    rate = AdhocRate(limit)
    send_until_refused(rate, "flood")
    assert is_admitted(rate, "newcomer") == (limit > 1)
