"""Histograms and counters that one process writes, in memory-mapped files.

An observation is a write to mapped memory (4 µs); with Triton's own metrics API it would be a round trip to the server.
Each process has a slot (`metric_slot`). The files of a process that ends stay in its slot and the next process counts
on from there: no value is ever reset, and there are never more files than there were concurrent processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import Counter, Histogram, values

from llm_policy.ledger.row_record import RowRecord
from llm_policy.metrics.metric_slot import MetricSlot

DIRECTORY = "metrics"
STEPS = ("preprocess", "postprocess", "ensemble_stream")
CACHE_RESULTS = ("hit", "file", "miss")
# 2,500 µs is the default queue-delay threshold; the other bounds cover the range seen with real engines.
QUEUE_DELAY_US = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1e6, 5e6, 30e6)
FIRST_TOKEN_US = (1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1e6, 2.5e6, 5e6, 15e6, 60e6)
PER_TOKEN_US = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 30_000, 50_000, 100_000, 250_000, 1e6)
COMPILE_MS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
MASK_MS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
OVERHEAD_US = (50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_500, 5_000, 10_000, 50_000, 250_000, 1e6)


class PolicyMetrics:
    """The metrics of one process. The slot that it takes is free again when the process ends.

    Raises:
        OSError: the state directory can't be written.
    """

    def __init__(self, state_dir: Path) -> None:
        directory = state_dir / DIRECTORY
        directory.mkdir(parents=True, exist_ok=True)
        slot = MetricSlot(directory)
        try:
            with _stored_in(directory, slot.number):
                self._create_metrics()
        except BaseException:
            slot.close()
            raise

    def _create_metrics(self) -> None:
        self.queue_delay_us = _histogram("llm_queue_delay_us", "Wait for a place in the engine's batch", QUEUE_DELAY_US)
        self.time_to_first_token_us = _histogram(
            "llm_time_to_first_token_us", "From arrival at the engine to the first token", FIRST_TOKEN_US
        )
        self.time_per_output_token_us = _histogram(
            "llm_time_per_output_token_us", "Time per completion token after the first", PER_TOKEN_US
        )
        self.inter_token_latency_us = _histogram(
            "llm_inter_token_latency_us", "Time between a stream's tokens, as they come from the engine", PER_TOKEN_US
        )
        self.guide_compile_ms = _histogram("llm_guide_compile_ms", "Compile time of one new guide", COMPILE_MS)
        self.guide_mask_ms = _histogram("llm_guide_mask_ms", "Slowest token mask of one new guide", MASK_MS)
        overhead = _histogram("llm_policy_overhead_us", "Time that a step adds to a request", OVERHEAD_US, ["step"])
        self.overhead_us = {step: overhead.labels(step) for step in STEPS}
        cache = Counter("llm_guide_cache", "Guide lookups by result", ["result"], registry=None)
        self.guide_cache = {result: cache.labels(result) for result in CACHE_RESULTS}

    def observe_answer(self, record: RowRecord) -> None:
        """Add one answered row, measured by the engine's clocks."""
        self.queue_delay_us.observe(record.queue_delay_us)
        self.time_to_first_token_us.observe(record.time_to_first_token_us)
        if record.num_completion_tokens > 1:
            after_first_us = record.total_time_us - record.time_to_first_token_us
            self.time_per_output_token_us.observe(after_first_us / (record.num_completion_tokens - 1))


def _histogram(name: str, help_text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
    return Histogram(name, help_text, labels, buckets=buckets, registry=None)


@contextmanager
def _stored_in(directory: Path, slot: int) -> Iterator[None]:
    """Metrics created in this block live in the slot's files.

    prometheus_client reads the directory from the environment, and names files after the process id unless
    `ValueClass` says otherwise; both are restored afterwards.
    """
    variable = "PROMETHEUS_MULTIPROC_DIR"
    value_class, previous_directory = values.ValueClass, os.environ.get(variable)
    os.environ[variable] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        values.ValueClass = value_class
        if previous_directory is None:
            del os.environ[variable]
        else:
            os.environ[variable] = previous_directory
