"""How long a restart waits."""

from llmstack.supervision.backoff import MAX_AFTER_PROOF_S, MAX_S, STABLE_S, Backoff


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_first_restart_is_at_once_and_each_later_one_waits_twice_as_long():
    backoff = Backoff(Clock())
    assert [backoff.next_s() for _ in range(5)] == [0.0, 0.5, 1.0, 2.0, 4.0]


def test_a_server_that_never_comes_up_is_not_tried_more_often_than_its_bound():
    backoff = Backoff(Clock())
    assert max(backoff.next_s() for _ in range(100)) == MAX_S


def test_a_server_that_was_proven_comes_back_soon_however_often_it_died():
    backoff = Backoff(Clock())
    waits = []
    for _ in range(20):
        backoff.mark_healthy()
        waits.append(backoff.next_s())
    assert max(waits) == MAX_AFTER_PROOF_S


def test_stable_service_makes_the_past_forgotten():
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(5):
        backoff.next_s()
    backoff.mark_healthy()
    clock.now_s += STABLE_S
    assert backoff.next_s() == 0.0


def test_service_that_was_not_stable_for_long_does_not():
    clock = Clock()
    backoff = Backoff(clock)
    backoff.next_s()
    backoff.mark_healthy()
    clock.now_s += STABLE_S - 1
    assert backoff.next_s() == 0.5


def test_one_failed_start_after_many_good_ones_costs_little():
    backoff = Backoff(Clock())
    for _ in range(20):
        backoff.mark_healthy()
        backoff.next_s()
    assert backoff.next_s() == MAX_AFTER_PROOF_S
