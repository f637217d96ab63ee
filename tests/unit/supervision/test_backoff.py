"""The wait before a restart."""

from llmstack.supervision.backoff import MAX_AFTER_HEALTHY_S, MAX_S, STABLE_S, Backoff


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_first_restart_is_immediate_and_each_later_one_waits_twice_as_long():
    backoff = Backoff(Clock())
    assert [backoff.next_wait_s() for _ in range(5)] == [0.0, 0.5, 1.0, 2.0, 4.0]


def test_a_server_that_never_starts_waits_no_longer_than_the_limit():
    backoff = Backoff(Clock())
    assert max(backoff.next_wait_s() for _ in range(100)) == MAX_S


def test_a_server_that_was_healthy_restarts_soon_however_often_it_died():
    backoff = Backoff(Clock())
    waits = []
    for _ in range(20):
        backoff.mark_healthy()
        waits.append(backoff.next_wait_s())
    assert max(waits) == MAX_AFTER_HEALTHY_S


def test_stable_service_resets_the_backoff():
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(5):
        backoff.next_wait_s()
    backoff.mark_healthy()
    clock.now_s += STABLE_S
    assert backoff.next_wait_s() == 0.0


def test_short_service_does_not_reset_the_backoff():
    clock = Clock()
    backoff = Backoff(clock)
    backoff.next_wait_s()
    backoff.mark_healthy()
    clock.now_s += STABLE_S - 1
    assert backoff.next_wait_s() == 0.5


def test_one_failed_start_after_many_good_ones_waits_no_longer():
    backoff = Backoff(Clock())
    for _ in range(20):
        backoff.mark_healthy()
        backoff.next_wait_s()
    assert backoff.next_wait_s() == MAX_AFTER_HEALTHY_S
