"""The `llm_*` metrics in Prometheus's text format: the ledger's totals and the contents of the metric files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from llm_policy.ledger.database import FILE_NAME, open_read_only
from llm_policy.ledger.metric_total import COST, COUNTERS, read_totals
from llm_policy.ledger.size_budget import read_size
from llm_policy.metrics.metric_slot import metric_files, quarantine_damaged_files
from llm_policy.metrics.policy_metrics import DIRECTORY
from llm_policy.metrics.tenant_metrics import TenantMetrics
from llm_policy.pricing import usd


def exposition(state_dir: Path, tenants: Sequence[str] = ()) -> bytes:
    """Every `llm_*` metric family, summed over all processes that ever wrote to `state_dir`.

    `tenants` have series of their own.

    Raises:
        OSError, sqlite3.Error: the state directory can't be read.
    """
    return b"".join(part() for part in exposition_parts(state_dir, tenants).values())


def exposition_parts(state_dir: Path, tenants: Sequence[str] = ()) -> dict[str, Callable[[], bytes]]:
    """The parts of `exposition` by name. Each part is rendered, and fails, independently."""
    collectors: dict[str, Collector] = {
        "ledger": _LedgerTotals(state_dir / FILE_NAME),
        "tenants": TenantMetrics(state_dir / FILE_NAME, tenants),
        "histograms": _ProcessMetrics(state_dir / DIRECTORY),
    }
    return {name: partial(_render, collector) for name, collector in collectors.items()}


def _render(collector: Collector) -> bytes:
    registry = CollectorRegistry()
    registry.register(collector)
    return generate_latest(registry)


class _ProcessMetrics(Collector):
    """The sum over all processes' files; damaged files are quarantined."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def describe(self) -> Iterator[Metric]:
        """Empty, so that registering does not collect."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One family per histogram and counter."""
        try:
            return self._merged()
        except OSError:
            raise
        except Exception:  # the parser raises any exception on a damaged file
            quarantine_damaged_files(self._directory)
            return self._merged()

    def _merged(self) -> Iterator[Metric]:
        paths = [str(path) for path in metric_files(self._directory) if path.stat().st_size]
        return iter(MultiProcessCollector.merge(paths))  # type: ignore[no-untyped-call]


class _LedgerTotals(Collector):
    """The ledger's counters. Every series exists from the start at 0, so that `rate()` sees its first increment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def describe(self) -> Iterator[Metric]:
        """Empty, so that registering does not collect."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One family per counter of `COUNTERS`, and the ledger's size."""
        with closing(open_read_only(self._path)) as connection:
            totals, size = read_totals(connection), read_size(connection)
        yield GaugeMetricFamily("llm_ledger_size_bytes", "Size of the ledger's pages in use", value=size.used_bytes)
        yield GaugeMetricFamily(
            "llm_ledger_budget_bytes", "Size budget of the ledger; 0 without one", value=size.max_bytes
        )
        for name, counter in COUNTERS.items():
            family = CounterMetricFamily(name, counter.help_text, labels=counter.label_names)
            for (series_name, labels), value in totals.items():
                if series_name == name:
                    label_values = labels.split(",") if counter.label_names else ()
                    family.add_metric(label_values, usd(value) if name == COST else value)
            yield family
