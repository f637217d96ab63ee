"""What a check of the ledger found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llm_policy.ledger import alerts, metric_total

Sums = Mapping[tuple[str, str], int]  # by name and labels of a metric total


class Discrepancy(NamedTuple):
    """Two values that should be equal, or a number of rows that should be 0."""

    check: str
    in_rows: Any
    in_totals: Any


def compare_sums(sums: Sums, totals: Sums) -> Iterator[Discrepancy]:
    """The sums over rows that differ from their totals."""
    for name, labels in sorted({*sums, *totals}):
        in_rows, in_totals = sums.get((name, labels), 0), totals.get((name, labels), 0)
        # No row records the engine's health.
        if in_rows != in_totals and (name, labels) != (metric_total.ALERTS, alerts.ENGINE_UNHEALTHY):
            yield Discrepancy(f"{name} {labels}".rstrip(), in_rows, in_totals)
