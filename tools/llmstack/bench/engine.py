"""Speed of the portable engine alone, in this process, without a server."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from portable_engine.batcher import InFlightBatcher
from portable_engine.sequence import GenerationRequest, Sequence

_NUM_PROFILED_OPERATORS = 20
_FIRST_PLAIN_TOKEN, _NUM_PLAIN_TOKENS = 300, 3_000  # ids of ordinary tokens in every byte-level vocabulary


class EngineWorkload(NamedTuple):
    """Sequences that arrive together, all of the same size."""

    concurrency: int
    prompt_tokens: int
    completion_tokens: int


class EngineMeasurement(NamedTuple):
    """Speed of one workload. Times to first token are those of the batch's first and last sequence.

    `decode_tokens_per_s` counts from the moment when all prompts are prefilled; None if nothing was left to decode.
    """

    concurrency: int
    decode_tokens_per_s: float | None
    tokens_per_s: float
    first_ttft_ms: float
    last_ttft_ms: float


def measure_engine(model: Any, workload: EngineWorkload) -> EngineMeasurement:
    """Decode the workload's sequences to their last token."""
    batcher = InFlightBatcher(model, workload.concurrency, lambda logits, matchers: None)
    began_ns = time.monotonic_ns()
    sequences = [Sequence(_request(row, workload), began_ns) for row in range(workload.concurrency)]
    for sequence in sequences:
        batcher.add(sequence)
    while not all(sequence.completion_token_ids for sequence in sequences):
        batcher.step()
    num_left = sum(workload.completion_tokens - len(sequence.completion_token_ids) for sequence in sequences)
    while not batcher.is_idle:
        batcher.step()
    first_token_ns = [sequence.first_token_time_ns for sequence in sequences]
    end_ns = max(sequence.last_token_time_ns for sequence in sequences)
    return EngineMeasurement(
        workload.concurrency,
        num_left / ((end_ns - max(first_token_ns)) / 1e9) if num_left else None,
        workload.concurrency * workload.completion_tokens / ((end_ns - began_ns) / 1e9),
        (min(first_token_ns) - began_ns) / 1e6,
        (max(first_token_ns) - began_ns) / 1e6,
    )


def measure_rounds(
    model: Any, workloads: list[EngineWorkload], num_rounds: int, on_measured: Callable[[], None]
) -> list[EngineMeasurement]:
    """Medians over `num_rounds` rounds of all workloads, after one warm-up round."""
    rounds = []
    for _ in range(num_rounds + 1):
        measurements = []
        for workload in workloads:
            measurements.append(measure_engine(model, workload))
            on_measured()
        rounds.append(measurements)
    return [_medians(list(measurements)) for measurements in zip(*rounds[1:], strict=True)]


def profile_engine(model: Any, workload: EngineWorkload) -> str:
    """A table of the operators that take longest by their own time, from torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    measure_engine(model, workload)  # warm-up
    on_gpu = model.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        measure_engine(model, workload)
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    table: str = profiler.key_averages().table(
        sort_by=order, row_limit=_NUM_PROFILED_OPERATORS, max_name_column_width=40
    )
    return table


def _request(row: int, workload: EngineWorkload) -> GenerationRequest:
    positions = range(workload.prompt_tokens)
    prompt = [_FIRST_PLAIN_TOKEN + (7 * row + 13 * position) % _NUM_PLAIN_TOKENS for position in positions]
    return GenerationRequest(prompt, workload.completion_tokens)


def _medians(measurements: list[EngineMeasurement]) -> EngineMeasurement:
    _, *columns = zip(*measurements, strict=True)
    medians: list[Any] = [None if None in column else round(statistics.median(column), 1) for column in columns]
    return EngineMeasurement(measurements[0].concurrency, *medians)
