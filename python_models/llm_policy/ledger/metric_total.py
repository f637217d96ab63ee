"""Counters that agree with the ledger: rows of a table, changed in the transaction of what they count."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from llm_policy.errors import Code
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

NO_TASK = "none"
LATE = "late"
RULES = ("queue_delay", "cost", "schema_violation", "engine_unhealthy")
_TASKS = (*TASKS, NO_TASK)
_OUTCOMES = ("settled", "refused", "cancelled", "lost", LATE)

Increments = dict[tuple[str, str], int]


class Counter:
    """One counter: its text, the names of its labels and every value that they can have."""

    def __init__(self, text: str, label_names: tuple[str, ...] = (), series: tuple[str, ...] = ("",)) -> None:
        self.text = text
        self.label_names = label_names
        self.series = series


COUNTERS = {
    TOKENS_IN: Counter("Prompt tokens of the rows that the engine got"),
    TOKENS_OUT: Counter("Completion tokens of the rows that were answered"),
    COST: Counter("What these rows cost, in US dollars"),
    REQUESTS: Counter(
        "Rows by what became of them; late ones were counted as cancelled or lost before their answer came",
        ("task", "outcome"),
        tuple(f"{task},{outcome}" for task in _TASKS for outcome in _OUTCOMES),
    ),
    REJECTED: Counter("Rows refused, by code", ("code",), tuple(code.value for code in Code)),
    VIOLATIONS: Counter("Guided answers that were complete and not what their schema allows"),
    ALERTS: Counter("Breaches of each rule, whether told at once or in a summary", ("rule",), RULES),
}


def count(increments: Increments, name: str, labels: str = "", by: int = 1) -> None:
    """Note an increment for `add`."""
    key = (name, labels)
    increments[key] = increments.get(key, 0) + by


def add(connection: sqlite3.Connection, increments: Mapping[tuple[str, str], int]) -> None:
    """Add `increments` to the totals, in the caller's transaction."""
    connection.executemany(
        "INSERT INTO metric_total (name, labels, value) VALUES (?, ?, ?) "
        "ON CONFLICT (name, labels) DO UPDATE SET value = value + excluded.value",
        [(name, labels, by) for (name, labels), by in increments.items() if by],
    )


def read_totals(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """Every series by name and labels, those at 0 too."""
    totals = {(name, labels): 0 for name, counter in COUNTERS.items() for labels in counter.series}
    totals.update(
        ((name, labels), value)
        for name, labels, value in connection.execute("SELECT name, labels, value FROM metric_total")
    )
    return totals
