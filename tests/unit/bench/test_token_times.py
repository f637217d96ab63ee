"""When the tokens of streams came."""

import pytest

from llmstack.bench.token_times import TokenTimes, first_token_ms_p50, inter_token_ms


def stream_of(*pieces: tuple[int, float]) -> TokenTimes:
    """A stream that began at second 10, with pieces of some tokens at some seconds after that."""
    times = TokenTimes(10.0)
    for num_tokens, after_s in pieces:
        times.add(num_tokens, 10.0 + after_s)
    return times


def test_the_time_of_a_piece_counts_once_for_each_of_its_tokens():
    times = stream_of((1, 0.1), (1, 0.2), (4, 0.6))
    assert times.first_s == pytest.approx(0.1)
    assert times.intervals_s == pytest.approx([0.1] * 5)
    assert (times.num_pieces, times.num_tokens) == (3, 6)


def test_an_end_without_tokens_is_a_piece_and_part_of_the_duration_only():
    times = stream_of((2, 0.1), (1, 0.2), (0, 0.5))
    assert times.intervals_s == pytest.approx([0.1])
    assert (times.num_pieces, times.num_tokens) == (3, 3)
    assert times.duration_s == pytest.approx(0.5)


def test_a_piece_without_tokens_does_not_shorten_the_time_to_the_next_token():
    times = stream_of((0, 0.1), (1, 0.2), (0, 0.3), (1, 0.4))
    assert times.first_s == pytest.approx(0.2)
    assert times.intervals_s == pytest.approx([0.2])


def test_medians_are_over_the_tokens_of_all_streams():
    streams = [stream_of((1, 0.1), (1, 0.2)), stream_of((1, 0.3), (3, 0.9)), stream_of((1, 0.2))]
    assert first_token_ms_p50(streams) == pytest.approx(200)
    assert inter_token_ms(streams) == pytest.approx((200, 200))


def test_the_99th_percentile_is_above_the_median_where_one_token_in_50_comes_late():
    times = stream_of((1, 0.0), *((1, 0.01 * number) for number in range(1, 50)), (1, 1.49))
    assert inter_token_ms([times]) == pytest.approx((10, 1_000))


def test_streams_without_tokens_have_times_of_zero():
    assert first_token_ms_p50([stream_of((0, 0.5))]) == 0
    assert inter_token_ms([stream_of()]) == (0, 0)
