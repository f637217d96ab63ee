"""The retry schedule: waits stay within their bounds and a delivery is retried for at least a day."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.events.retry_schedule import RetrySchedule, parse_retry_after

SCHEDULE = RetrySchedule()
FAILURES = st.integers(min_value=1, max_value=100_000)
RETRY_AFTER_S = st.none() | st.floats(min_value=0, max_value=1e12)
FRACTIONS = st.floats(min_value=0, max_value=1)
YEAR_2100_S = 4_102_444_800
TIMES_S = st.integers(min_value=0, max_value=YEAR_2100_S)


def jitter(fraction):
    return lambda low, high: low + fraction * (high - low)


@given(FAILURES, RETRY_AFTER_S, FRACTIONS)
def test_a_wait_is_within_its_bounds(num_failures, retry_after_s, fraction):
    wait_s = SCHEDULE.wait_s(num_failures, retry_after_s, jitter(fraction))
    assert 0 <= wait_s <= SCHEDULE.max_wait_s
    assert wait_s >= min(retry_after_s or 0, SCHEDULE.max_retry_after_s)


@given(FAILURES, FRACTIONS)
def test_without_retry_after_the_wait_is_a_fraction_of_the_ceiling(num_failures, fraction):
    wait_s = SCHEDULE.wait_s(num_failures, None, jitter(fraction))
    assert wait_s == pytest.approx(fraction * SCHEDULE.ceiling_s(num_failures))


@given(FAILURES)
def test_the_ceiling_doubles_up_to_its_maximum(num_failures):
    now, following = SCHEDULE.ceiling_s(num_failures), SCHEDULE.ceiling_s(num_failures + 1)
    assert following == min(2 * now, SCHEDULE.max_backoff_s)


@given(st.lists(FRACTIONS, min_size=1, max_size=50), st.floats(min_value=0.001, max_value=60))
def test_a_delivery_is_retried_for_a_day_with_any_jitter(fractions, attempt_s):
    elapsed_s, num_failures = attempt_s, 1
    while not SCHEDULE.is_exhausted(num_failures, elapsed_s):
        fraction = max(fractions[num_failures % len(fractions)], 0.01)  # with zero waits the loop would not end
        elapsed_s += SCHEDULE.wait_s(num_failures, None, jitter(fraction)) + attempt_s
        num_failures += 1
    assert elapsed_s >= 86_400
    assert num_failures >= 20
    assert elapsed_s <= 86_400 + SCHEDULE.max_backoff_s + attempt_s


@given(st.floats(min_value=0, max_value=1e12))
def test_a_clock_set_forward_does_not_end_the_retries_early(since_first_attempt_s):
    assert not SCHEDULE.is_exhausted(SCHEDULE.min_attempts - 1, since_first_attempt_s)


@given(st.text() | st.text(alphabet="0123456789:, GMTonue-+.Jan") | st.none(), TIMES_S)
def test_any_header_gives_seconds_or_none(text, now_s):
    seconds = parse_retry_after(text, now_s)
    assert seconds is None or 0 <= seconds < float("inf")


@given(st.integers(min_value=0, max_value=10**9 - 1), TIMES_S)
def test_retry_after_is_parsed_as_seconds(seconds, now_s):
    assert parse_retry_after(f" {seconds} ", now_s) == seconds


@given(st.integers(min_value=10**9, max_value=10**5000))
def test_a_huge_number_of_seconds_is_at_least_the_maximum(seconds):
    text = "9" * 5000 if seconds > 10**4000 else str(seconds)
    assert parse_retry_after(text, 0) >= SCHEDULE.max_retry_after_s


@given(TIMES_S, TIMES_S)
def test_retry_after_is_parsed_as_a_date(until_s, now_s):
    assert parse_retry_after(formatdate(until_s, usegmt=True), now_s) == max(0, until_s - now_s)


@pytest.mark.parametrize("text", ["", "-5", "1.5", "soon", "١٢", "1e3", "0x10", "Mon", "Mon, 99 Foo 2026 99:99:99 GMT"])
def test_any_other_text_gives_none(text):
    assert parse_retry_after(text, 0) is None
