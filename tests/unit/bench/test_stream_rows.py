"""A row of streams."""

from llmstack.bench.load import Workload
from llmstack.bench.stream_load import Streamed
from llmstack.bench.stream_rows import summarise_streams
from llmstack.bench.token_times import TokenTimes
from llmstack.client.stream_client import Piece


def streamed(*pieces: tuple[int, float], engine_first_us: int) -> Streamed:
    times = TokenTimes(0.0)
    for num_tokens, after_s in pieces:
        times.add(num_tokens, after_s)
    return Streamed(times, Piece({"time_to_first_token_us": [engine_first_us]}, "", times.ended_s))


def test_a_row_has_the_times_at_the_client_and_what_the_first_token_waits_for_outside_the_engine():
    workload = Workload(lambda number: {}, is_guided=True, concurrency=2, num_requests=2)
    answers = [
        streamed((1, 0.1), (2, 0.3), (0, 0.4), engine_first_us=98_000),
        streamed((1, 0.2), (1, 0.3), (1, 0.4), engine_first_us=196_000),
    ]
    row = summarise_streams(workload, answers, elapsed_s=0.5)
    assert (row.guided, row.concurrency, row.num_requests) == (True, 2, 2)
    assert (row.completion_tokens, row.tokens_per_piece, row.tokens_per_s) == (3, 1, 12)
    assert (row.ttft_ms_p50, row.ttft_ms_max, row.first_token_outside_engine_ms_p50) == (150, 200, 3)
    assert (row.inter_token_ms_p50, row.latency_ms_p50) == (100, 400)
