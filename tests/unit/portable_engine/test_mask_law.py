"""The law of the mask: slow masks in general end a guide, one slow mask does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portable_engine.mask_law import NUM_FILLS, too_slow_ms

LIMIT_MS = 5.0
times = st.floats(0, 1e5)
fills = st.lists(times, max_size=NUM_FILLS)


@given(st.lists(st.floats(0, LIMIT_MS), max_size=NUM_FILLS - 1), times)
def test_one_slow_fill_among_fast_ones_never_breaks_the_law(fast, slow):
    assert too_slow_ms([*fast, slow], LIMIT_MS) is None


@given(fills, st.randoms())
def test_the_order_of_fills_does_not_matter(recent, random):
    shuffled = random.sample(recent, len(recent))
    assert (too_slow_ms(shuffled, LIMIT_MS) is None) == (too_slow_ms(recent, LIMIT_MS) is None)


@given(st.lists(times, min_size=1, max_size=NUM_FILLS), st.data())
def test_a_slower_fill_never_makes_a_guide_lawful(recent, data):
    index = data.draw(st.integers(0, len(recent) - 1))
    slower = [*recent[:index], recent[index] + data.draw(times), *recent[index + 1 :]]
    if too_slow_ms(recent, LIMIT_MS) is not None:
        assert too_slow_ms(slower, LIMIT_MS) is not None


@given(fills)
def test_the_given_mean_is_above_the_limit_and_no_more_than_the_longest_fill(recent):
    if (mean_ms := too_slow_ms(recent, LIMIT_MS)) is not None:
        assert LIMIT_MS < mean_ms <= max(recent) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("recent", "mean_ms"),
    [
        ([], None),
        ([1e6], None),
        ([100.0, 100.0], 100.0),
        ([100.0, 0.5], None),
        ([6.0] * 12, None),
        ([6.0] * NUM_FILLS, 6.0),
        ([5.0] * NUM_FILLS, None),
        ([200.0, 0.1, 0.1, 200.0, 0.1], 50.075),
        ([0.1] * 8 + [30.0] * 3, None),
    ],
)
def test_the_law_judges_the_mean_without_the_longest_fill(recent, mean_ms):
    assert too_slow_ms(recent, LIMIT_MS) == (None if mean_ms is None else pytest.approx(mean_ms))
