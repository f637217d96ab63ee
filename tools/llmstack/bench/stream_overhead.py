"""What the policy adds to a stream: `ensemble_stream` beside a decoupled model that passes the engine's tokens through.

The no-op engine generates at a pace. One run measures both models in turn, several rounds, and compares within a round,
so that differences hold on a noisy machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from llm_policy.release.release import Release
from llm_policy.text.tokenizer import Tokenizer
from llmstack.bench.load import Workload
from llmstack.bench.plans import COMPLETION_TOKENS as COMPLETION_TOKENS
from llmstack.bench.process_usage import stub_cpu_seconds
from llmstack.bench.prompt import build_prompt
from llmstack.bench.stream_load import stream_load
from llmstack.bench.token_times import TokenTimes, first_token_ms_p50, inter_token_ms
from llmstack.client.ensemble_client import Headers, Inputs, release_headers
from llmstack.client.stream_client import STREAM_MODEL
from llmstack.server.process import TritonServer

BASELINE_STREAMS = Path(__file__).with_name("baseline_streams")
PASS_STREAM = "pass_stream"  # noqa: S105 - a model's name
WAYS = (PASS_STREAM, STREAM_MODEL)
PROMPT_TOKENS = 500
_MIN_STREAMS, _STREAMS_PER_CLIENT = 8, 2  # for each round


class StreamPlan(NamedTuple):
    """What is measured; `token_interval_ms` is the pace of the server's engine."""

    concurrencies: tuple[int, ...] = (1, 16, 64)
    token_interval_ms: float = 10.0
    completion_tokens: int = COMPLETION_TOKENS
    rounds: int = 5

    @property
    def num_measurements(self) -> int:
        """Rounds of all ways and concurrencies."""
        return len(self.concurrencies) * len(WAYS) * self.rounds

    @property
    def ramp_s(self) -> float:
        """The clients begin spread over the time of one stream: together they would all wait for the same tokens."""
        return self.completion_tokens * self.token_interval_ms / 1e3


class WayRound(NamedTuple):
    """One way in one round: its streams, and the processor time that the model's stub took for them."""

    streams: list[TokenTimes]
    stub_cpu_s: float


class StreamMeasurement(NamedTuple):
    """One way at one concurrency. Differences and ratio are to `pass_stream` in the same round, medians of all rounds.

    `stub_us_per_chunk` is processor time of the model's stub for everything that it does for a stream, per response.
    `streams_per_core` is how many streams at the engine's pace take one core of it.
    """

    way: str
    concurrency: int
    num_streams: int
    first_token_ms_p50: float
    first_token_later_ms: float
    inter_token_ms_p50: float
    inter_token_ms_p99: float
    inter_token_later_ms: float
    inter_token_ratio: float
    chunks_per_s: float
    tokens_per_chunk: float
    stub_us_per_chunk: float
    chunks_per_core_s: float
    streams_per_core: float


def measure_stream_overhead(
    server: TritonServer, release: Release, plan: StreamPlan, on_start: Callable[[str], None]
) -> Iterator[StreamMeasurement]:
    """Measure both ways at every concurrency; before each measurement `on_start` receives its description.

    `server` runs the no-op engine at the plan's pace and has `BASELINE_STREAMS` loaded.

    Raises:
        LoadError: a request got an error.
    """
    headers = release_headers(release)
    text = build_prompt(Tokenizer.load(release.tokenizer_dir), PROMPT_TOKENS).text
    inputs = {"text_input": text, "max_tokens": plan.completion_tokens}
    for way in WAYS:
        stream_load(server, headers, Workload(lambda number: inputs, False, 4, 4), way)
    for concurrency in plan.concurrencies:
        rounds = []
        for number in range(plan.rounds):
            found = {}
            for way in WAYS if number % 2 == 0 else reversed(WAYS):
                on_start(f"{way}, concurrency {concurrency}, round {number + 1}")
                found[way] = _measure_way(server, headers, inputs, plan, way, concurrency)
            rounds.append(found)
        yield from summarise_rounds(concurrency, rounds, plan.token_interval_ms)


def summarise_rounds(
    concurrency: int, rounds: Sequence[Mapping[str, WayRound]], token_interval_ms: float
) -> Iterator[StreamMeasurement]:
    """A row for each way from its rounds."""
    for way in WAYS:
        streams = [stream for found in rounds for stream in found[way].streams]
        cpu_s = sum(found[way].stub_cpu_s for found in rounds)
        pairs = [(found[way].streams, found[PASS_STREAM].streams) for found in rounds]
        first_later_ms = [first_token_ms_p50(own) - first_token_ms_p50(other) for own, other in pairs]
        per_token_ms = [(inter_token_ms(own)[0], inter_token_ms(other)[0]) for own, other in pairs]
        num_chunks, num_tokens = sum(s.num_pieces for s in streams), sum(s.num_tokens for s in streams)
        p50_ms, p99_ms = inter_token_ms(streams)
        yield StreamMeasurement(
            way,
            concurrency,
            len(streams),
            first_token_ms_p50=round(first_token_ms_p50(streams), 2),
            first_token_later_ms=round(statistics.median(first_later_ms), 2),
            inter_token_ms_p50=round(p50_ms, 3),
            inter_token_ms_p99=round(p99_ms, 3),
            inter_token_later_ms=round(statistics.median(own - other for own, other in per_token_ms), 3),
            inter_token_ratio=round(statistics.median(_ratio(own, other) for own, other in per_token_ms), 4),
            chunks_per_s=round(concurrency * num_chunks / sum(stream.duration_s for stream in streams), 1),
            tokens_per_chunk=round(num_tokens / num_chunks, 3),
            stub_us_per_chunk=round(1e6 * cpu_s / num_chunks, 1),
            chunks_per_core_s=round(_ratio(num_chunks, cpu_s)),
            streams_per_core=round(_ratio(num_tokens, cpu_s) * token_interval_ms / 1e3, 1),
        )


def _measure_way(
    server: TritonServer, headers: Headers, inputs: Inputs, plan: StreamPlan, way: str, concurrency: int
) -> WayRound:
    num_streams = max(_MIN_STREAMS, _STREAMS_PER_CLIENT * concurrency)
    workload = Workload(lambda number: inputs, False, concurrency, num_streams)
    before_s = stub_cpu_seconds(server.pid, way)
    answers = stream_load(server, headers, workload, way, plan.ramp_s)
    return WayRound([answer.times for answer in answers], stub_cpu_seconds(server.pid, way) - before_s)


def _ratio(value: float, other: float) -> float:
    """0 where the clock of processor time, which ticks each 10 ms, saw nothing."""
    return value / other if other else 0.0
