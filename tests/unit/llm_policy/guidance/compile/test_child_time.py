"""The workers' time that each tenant used recently."""

from math import exp

import pytest

from llm_policy.guidance.compile.child_time import DECAY_S, MAX_TENANTS, ChildTime


def test_a_second_counts_less_the_longer_it_is_ago():
    time = ChildTime()
    time.add("ada", 2.0, 10.0)
    time.add("ada", 1.0, 10.0 + DECAY_S)
    assert time.rank("ada", 10.0 + DECAY_S)[0] == pytest.approx(1.0 + 2.0 * exp(-1))


def test_a_tenant_that_used_nothing_is_first():
    assert ChildTime().rank("ada", 5.0) == (0.0, 0)


def test_equal_times_are_told_apart_by_the_last_turn():
    time = ChildTime()
    for tenant in ("ada", "bob", "ada"):
        time.count_turn(tenant, 0.0)
    assert time.rank("bob", 0.0) < time.rank("ada", 0.0)


def test_a_turn_keeps_the_time_used():
    time = ChildTime()
    time.add("ada", 2.0, 0.0)
    time.count_turn("ada", 0.0)
    assert time.rank("ada", 0.0) == (2.0, 1)


def test_when_there_are_too_many_tenants_those_that_used_least_are_forgotten():
    time = ChildTime()
    for number in range(MAX_TENANTS + 1):
        time.add(f"tenant{number}", float(number), 0.0)
    assert len(time) == MAX_TENANTS // 2
    assert time.rank("tenant1", 0.0) == (0.0, 0)
    assert time.rank(f"tenant{MAX_TENANTS}", 0.0)[0] == MAX_TENANTS
