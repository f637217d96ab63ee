"""Metric counters that always agree with the ledger: table rows, changed in the transaction of what they count."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from functools import lru_cache

from llm_policy.errors import Code
from llm_policy.release.manifest import NO_TASK as NO_TASK
from llm_policy.release.manifest import TASKS

TABLES = """
CREATE TABLE IF NOT EXISTS metric_total (
    name TEXT NOT NULL,
    labels TEXT NOT NULL,    -- the values, separated by commas, in the order of COUNTERS
    value INTEGER NOT NULL,
    PRIMARY KEY (name, labels)
) WITHOUT ROWID;
"""

TOKENS_IN, TOKENS_OUT = "llm_tokens_in_total", "llm_tokens_out_total"
COST = "llm_cost_usd_total"  # kept in nano-dollars
REQUESTS, REJECTED = "llm_requests_total", "llm_requests_rejected_total"
VIOLATIONS, ALERTS = "llm_schema_violations_total", "llm_alerts_total"

LATE = "late"
RULES = ("queue_delay", "cost", "schema_violation", "engine_unhealthy")
_TASKS = (*TASKS, NO_TASK)
_OUTCOMES = ("settled", "refused", "cancelled", "lost", LATE)

Increments = dict[tuple[str, str], int]


class CounterSpec:
    """One counter: its help text, label names and every combination of label values (comma-separated)."""

    def __init__(self, help_text: str, label_names: tuple[str, ...] = (), series: tuple[str, ...] = ("",)) -> None:
        self.help_text = help_text
        self.label_names = label_names
        self.series = series


COUNTERS = {
    TOKENS_IN: CounterSpec("Prompt tokens of rows sent to the engine"),
    TOKENS_OUT: CounterSpec("Completion tokens of answered rows"),
    COST: CounterSpec("Cost of these rows in US dollars"),
    REQUESTS: CounterSpec(
        "Rows by outcome; late rows were counted as cancelled or lost before their answer came",
        ("task", "outcome"),
        tuple(f"{task},{outcome}" for task in _TASKS for outcome in _OUTCOMES),
    ),
    REJECTED: CounterSpec("Rejected rows by error code", ("code",), tuple(code.value for code in Code)),
    VIOLATIONS: CounterSpec("Complete guided answers that violate their schema"),
    ALERTS: CounterSpec("Breaches of each rule, reported immediately or in a summary", ("rule",), RULES),
}


def count(increments: Increments, name: str, labels: str = "", by: int = 1) -> None:
    """Add to the increments that `add` will write."""
    key = (name, labels)
    increments[key] = increments.get(key, 0) + by


def add(connection: sqlite3.Connection, increments: Mapping[tuple[str, str], int]) -> None:
    """Add `increments` to the totals, in the caller's transaction."""
    values = [value for (name, labels), by in increments.items() if by for value in (name, labels, by)]
    if values:
        connection.execute(_add_statement(len(values) // 3), values)


@lru_cache(64)
def _add_statement(num_series: int) -> str:
    """One statement for all: one for each takes half as long again."""
    return (
        f"INSERT INTO metric_total (name, labels, value) VALUES {', '.join(['(?, ?, ?)'] * num_series)} "  # noqa: S608
        "ON CONFLICT (name, labels) DO UPDATE SET value = value + excluded.value"
    )


def read_totals(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """The value of every series by (name, labels), including those at 0.

    A release's own tasks, beside the guide's, appear with their first row. Their names come from manifests only: a row
    with an unknown task counts without one.
    """
    totals = {(name, labels): 0 for name, counter in COUNTERS.items() for labels in counter.series}
    totals.update(
        ((name, labels), value)
        for name, labels, value in connection.execute("SELECT name, labels, value FROM metric_total")
    )
    return totals
