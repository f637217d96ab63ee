"""The rows of streams through `ensemble_stream` beside those that only pass through."""

import pytest

from llmstack.bench.stream_overhead import PASS_STREAM, WayRound, summarise_rounds
from llmstack.bench.token_times import TokenTimes
from llmstack.client.stream_client import STREAM_MODEL


def streams_of(first_s: float, interval_s: float, num_streams: int = 2) -> list[TokenTimes]:
    """Streams of three tokens."""
    streams = [TokenTimes(0.0) for _ in range(num_streams)]
    for times in streams:
        for number in range(3):
            times.add(1, first_s + number * interval_s)
    return streams


def round_of(slow_s: float) -> dict[str, WayRound]:
    """A round in which everything takes `slow_s` longer; the policy adds 1 ms to the first token."""
    return {
        PASS_STREAM: WayRound(streams_of(0.002 + slow_s, 0.01), 0.0006),
        STREAM_MODEL: WayRound(streams_of(0.003 + slow_s, 0.0102), 0.0012),
    }


def rows_of(*slow_s: float):
    return list(summarise_rounds(2, [round_of(value) for value in slow_s], token_interval_ms=10.0))


def test_differences_and_ratios_are_within_a_round():
    passing, policy = rows_of(0.0, 0.5, 0.1)
    assert (passing.first_token_later_ms, passing.inter_token_later_ms, passing.inter_token_ratio) == (0, 0, 1)
    assert (policy.first_token_later_ms, policy.inter_token_later_ms, policy.inter_token_ratio) == (1, 0.2, 1.02)


def test_processor_time_says_how_many_chunks_and_streams_a_core_carries():
    passing, policy = rows_of(0.0)
    assert (passing.stub_us_per_chunk, passing.chunks_per_core_s, passing.streams_per_core) == (100, 10_000, 100)
    assert (policy.stub_us_per_chunk, policy.chunks_per_core_s, policy.streams_per_core) == (200, 5_000, 50)


def test_chunks_per_second_are_those_of_as_many_streams_as_run_at_once():
    passing, _ = rows_of(0.0)
    assert passing.chunks_per_s == pytest.approx(2 * 3 / 0.022, abs=0.1)


def test_a_stub_whose_time_is_below_the_clocks_tick_has_no_rate():
    found = {way: WayRound(streams_of(0.002, 0.01), 0.0) for way in (PASS_STREAM, STREAM_MODEL)}
    assert [row.chunks_per_core_s for row in summarise_rounds(2, [found], 10.0)] == [0, 0]
