"""Prometheus metrics: histograms in memory-mapped files, counters from the ledger's totals, one text of both.

A histogram's observation is a write to mapped memory (4 µs); through Triton's own metrics it would be a round trip to
the server. Each process has a slot (`metric_slot`). A process that ends, however, leaves its numbers in its slot, and
the next one counts on from there: nothing is reset, and there are never more files than there were processes at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from llm_policy.ledger.database import FILE_NAME, open_to_read
from llm_policy.ledger.metric_total import COST, COUNTERS, read_totals
from llm_policy.metrics.slot import MetricSlot, files, move_damaged_aside
from llm_policy.pricing import usd

DIRECTORY = "metrics"
STEPS = ("preprocess", "postprocess")
CACHE_RESULTS = ("hit", "file", "miss")
# 2,500 µs is the default threshold of the queue delay; the rest is spread over what engines do.
QUEUE_DELAY_US = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1e6, 5e6, 30e6)
FIRST_TOKEN_US = (1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1e6, 2.5e6, 5e6, 15e6, 60e6)
PER_TOKEN_US = (100, 250, 500, 1_000, 2_500, 5_000, 10_000, 20_000, 30_000, 50_000, 100_000, 250_000, 1e6)
COMPILE_MS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
OVERHEAD_US = (50, 100, 200, 300, 500, 750, 1_000, 1_500, 2_500, 5_000, 10_000, 50_000, 250_000, 1e6)


class PolicyMetrics:
    """What one process observes. Opening takes a slot, which is free again when the process ends.

    Raises:
        OSError: the state directory takes no files.
    """

    def __init__(self, state_dir: Path) -> None:
        directory = state_dir / DIRECTORY
        directory.mkdir(parents=True, exist_ok=True)
        slot = MetricSlot(directory)
        try:
            with _kept_in(directory, slot.number):
                self._make()
        except BaseException:
            slot.close()
            raise

    def _make(self) -> None:
        self.queue_delay_us = _histogram("llm_queue_delay_us", "Wait for a place in the batch", QUEUE_DELAY_US)
        self.time_to_first_token_us = _histogram(
            "llm_time_to_first_token_us", "From arrival at the engine to the first token", FIRST_TOKEN_US
        )
        self.time_per_output_token_us = _histogram(
            "llm_time_per_output_token_us", "Time per completion token after the first", PER_TOKEN_US
        )
        self.guide_compile_ms = _histogram("llm_guide_compile_ms", "Compiling one new guide", COMPILE_MS)
        overhead = _histogram("llm_policy_overhead_us", "What a step takes of a request", OVERHEAD_US, ["step"])
        self.overhead_us = {step: overhead.labels(step) for step in STEPS}
        cache = Counter("llm_guide_cache", "Guides looked up, by where the verdict was", ["result"], registry=None)
        self.guide_cache = {result: cache.labels(result) for result in CACHE_RESULTS}

    def observe_answer(
        self, queue_delay_us: int, first_token_us: int, total_us: int, num_completion_tokens: int
    ) -> None:
        """One answered row, by the engine's clocks."""
        self.queue_delay_us.observe(queue_delay_us)
        self.time_to_first_token_us.observe(first_token_us)
        if num_completion_tokens > 1:
            self.time_per_output_token_us.observe((total_us - first_token_us) / (num_completion_tokens - 1))


def exposition(state_dir: Path) -> bytes:
    """Every `llm_*` family in Prometheus's text format, of all processes that ever wrote to `state_dir`.

    Raises:
        OSError, sqlite3.Error: the state directory can't be read.
    """
    return b"".join(part() for part in exposition_parts(state_dir).values())


def exposition_parts(state_dir: Path) -> dict[str, Callable[[], bytes]]:
    """What `exposition` consists of, by name, to be had one by one: what keeps one away hides no other."""
    collectors = {"ledger": _Totals(state_dir / FILE_NAME), "histograms": _Measurements(state_dir / DIRECTORY)}
    return {name: partial(_text, collector) for name, collector in collectors.items()}


def _text(collector: Collector) -> bytes:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)


class _Measurements(Collector):
    """What all processes have measured; files that can't be read are moved aside."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def describe(self) -> Iterator[Metric]:
        """Nothing: it is known by what was measured."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One family a histogram and a counter."""
        try:
            return self._merged()
        except OSError:
            raise
        except Exception:  # whatever a parser comes to in a damaged file
            move_damaged_aside(self._directory)
            return self._merged()

    def _merged(self) -> Iterator[Metric]:
        paths = [str(path) for path in files(self._directory) if path.stat().st_size]
        return iter(MultiProcessCollector.merge(paths))  # type: ignore[no-untyped-call]


class _Totals(Collector):
    """The counters in the database; every series is there from the start, so that rates see its first increment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def describe(self) -> Iterator[Metric]:
        """Nothing: what is collected is known by `COUNTERS`."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One family a counter."""
        with closing(open_to_read(self._path)) as connection:
            totals = read_totals(connection)
        for name, counter in COUNTERS.items():
            family = CounterMetricFamily(name, counter.text, labels=counter.label_names)
            for (series_name, labels), value in totals.items():
                if series_name == name:
                    label_values = labels.split(",") if counter.label_names else ()
                    family.add_metric(label_values, usd(value) if name == COST else value)
            yield family


def _histogram(name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
    return Histogram(name, text, labels, buckets=buckets, registry=None)


@contextmanager
def _kept_in(directory: Path, slot: int) -> Iterator[None]:
    """Metrics made meanwhile live in the slot's files. prometheus_client takes the directory from the environment."""
    variable = "PROMETHEUS_MULTIPROC_DIR"
    before = values.ValueClass, os.environ.get(variable)
    os.environ[variable] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        values.ValueClass = before[0]
        if before[1] is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before[1]
