"""Rows of streams: latencies of a closed loop of streaming clients."""

from __future__ import annotations

import statistics
import time
from typing import NamedTuple

from llmstack.bench.load import Workload
from llmstack.bench.stream_load import Streamed, stream_load
from llmstack.bench.token_times import first_token_ms_p50, inter_token_ms
from llmstack.client.ensemble_client import Headers, Server


class StreamRow(NamedTuple):
    """Results of one workload, as its clients see them.

    The time between tokens is that between two pieces, divided by the new tokens. `first_token_outside_engine_ms_p50`
    is what a client waits for the first token beyond the time that the engine counts: network, Triton and policy.
    """

    guided: bool
    concurrency: int
    num_requests: int
    completion_tokens: float  # mean per request
    tokens_per_piece: float
    tokens_per_s: float
    ttft_ms_p50: float
    ttft_ms_max: float
    first_token_outside_engine_ms_p50: float
    inter_token_ms_p50: float
    inter_token_ms_p99: float
    latency_ms_p50: float
    latency_ms_max: float


def measure_stream_row(server: Server, headers: Headers, workload: Workload) -> StreamRow:
    """Stream the workload's answers from `ensemble_stream`.

    Raises:
        LoadError: a request got an error.
    """
    began = time.perf_counter()
    answers = stream_load(server, headers, workload)
    return summarise_streams(workload, answers, time.perf_counter() - began)


def summarise_streams(workload: Workload, answers: list[Streamed], elapsed_s: float) -> StreamRow:
    """The row of `answers`, which took `elapsed_s` together."""
    streams = [answer.times for answer in answers]
    num_tokens = sum(stream.num_tokens for stream in streams)
    inter_token_p50, inter_token_p99 = inter_token_ms(streams)
    return StreamRow(
        workload.is_guided,
        workload.concurrency,
        len(answers),
        completion_tokens=round(num_tokens / len(streams), 1),
        tokens_per_piece=round(num_tokens / sum(stream.num_pieces for stream in streams), 3),
        tokens_per_s=round(num_tokens / elapsed_s, 1),
        ttft_ms_p50=round(first_token_ms_p50(streams), 2),
        ttft_ms_max=round(1e3 * max(stream.first_s or 0.0 for stream in streams), 1),
        first_token_outside_engine_ms_p50=round(statistics.median(map(_outside_engine_ms, answers)), 2),
        inter_token_ms_p50=round(inter_token_p50, 3),
        inter_token_ms_p99=round(inter_token_p99, 3),
        latency_ms_p50=round(1e3 * statistics.median(stream.duration_s for stream in streams), 1),
        latency_ms_max=round(1e3 * max(stream.duration_s for stream in streams), 1),
    )


def _outside_engine_ms(answer: Streamed) -> float:
    return 1e3 * (answer.times.first_s or 0.0) - float(answer.last.first("time_to_first_token_us")) / 1e3
