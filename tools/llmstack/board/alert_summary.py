"""Alerts by rule and window, and a chart of the breaches per hour."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, NamedTuple

from llm_policy.ledger.alerts import RULES
from llmstack.release.error_alerts import ALERT_WINDOW_S, ERROR_RULES

HOUR_NS = 3_600_000_000_000
NUM_HOURS = 24
HOURS_PER_LABEL = 4
PAGE_SIZE = 50
MAX_COUNTED, MAX_ALERTS = 10_000, 1_000
_MAX_SAMPLES = 10


class WindowSummary(NamedTuple):
    """All breaches of one rule that one service reported in one window."""

    rule: str
    window_start: str
    source: str
    window_end: str
    num_breaches: int
    observed_max: float
    threshold: float
    engine_hash: str
    samples: list[str]


class Bar(NamedTuple):
    """One rule in one hour of the chart. Positions and sizes are percentages of the chart's size."""

    rule: str
    hour: str
    num_breaches: int
    x: float
    y: float
    width: float
    height: float


class AlertChart(NamedTuple):
    """The bars of the last 24 hours; the number of breaches at the top of the axis, even; the UTC hours with labels."""

    bars: tuple[Bar, ...]
    top: int
    labels: tuple[str, ...]


def count_windows(connection: sqlite3.Connection) -> int:
    """The number of window summaries, counted up to `MAX_COUNTED`."""
    return int(connection.execute(COUNT_QUERY, (MAX_COUNTED,)).fetchone()[0])


def window_summaries(connection: sqlite3.Connection, offset: int = 0) -> list[WindowSummary]:
    """A page of summaries, newest window first. The first event and the summary event of a window are added up."""
    rows = connection.execute(PAGE_QUERY, (PAGE_SIZE, offset)).fetchall()
    return [WindowSummary._make([*row, _samples(connection, *row[:3])]) for row in rows]


def list_alerts(connection: sqlite3.Connection, engine_hash: str, since_ns: int) -> list[dict[str, Any]]:
    """The alerts of one engine since `since_ns` (Unix time), newest first, `MAX_ALERTS` at most."""
    rows = connection.execute(ENGINE_QUERY, (engine_hash, since_ns, MAX_ALERTS))
    return [dict(row) for row in rows]


def open_error_rules(connection: sqlite3.Connection, engine_hash: str, now_ns: int) -> list[str]:
    """The error-level rules with an alert within the period that promotions use."""
    reported = {
        alert["rule"] for alert in list_alerts(connection, engine_hash, now_ns - ALERT_WINDOW_S * 1_000_000_000)
    }
    return [rule for rule in ERROR_RULES if rule in reported]


# Each query follows one index in its order, so it reads only the rows that it returns.
COUNT_QUERY = "SELECT count(*) FROM (SELECT 1 FROM alert GROUP BY window_start, rule, source LIMIT ?)"
PAGE_QUERY = (
    "SELECT rule, window_start, source, max(window_end), sum(count), max(observed_max), max(threshold), "
    "max(engine_hash) FROM alert GROUP BY window_start, rule, source "
    "ORDER BY window_start DESC, rule DESC, source DESC LIMIT ? OFFSET ?"
)
SAMPLES_QUERY = "SELECT samples FROM alert WHERE rule = ? AND window_start = ? AND source = ? LIMIT 5"
ENGINE_QUERY = (
    "SELECT rule, phase, count, window_start, window_end FROM alert "
    "WHERE engine_hash = ? AND time_ns >= ? ORDER BY time_ns DESC LIMIT ?"
)
BARS_QUERY = "SELECT time_ns / ?, rule, sum(count) FROM alert WHERE time_ns >= ? AND time_ns < ? GROUP BY 1, 2"


def make_chart(connection: sqlite3.Connection, now_ns: int) -> AlertChart:
    """The chart of the last 24 hours: one column per hour with a stacked bar per rule; without breaches no bar."""
    first_hour = now_ns // HOUR_NS - NUM_HOURS + 1
    day = (HOUR_NS, first_hour * HOUR_NS, (first_hour + NUM_HOURS) * HOUR_NS)
    rows = connection.execute(BARS_QUERY, day).fetchall()
    counts = {(int(hour) - first_hour, rule): int(number) for hour, rule, number in rows if rule in RULES}
    top = axis_top(max((_num_breaches(counts, hour) for hour in range(NUM_HOURS)), default=0))
    bars = (bar for hour in range(NUM_HOURS) for bar in _stack(counts, hour, first_hour, top))
    labels = (_hour_label(first_hour + hour) for hour in range(0, NUM_HOURS, HOURS_PER_LABEL))
    return AlertChart(tuple(bars), top, tuple(labels))


def axis_top(highest: int) -> int:
    """The smallest of 2, 4, 6, 8, 10, 20, 40, … that is at least `highest`; each has a whole half."""
    power = 1
    while 10 * power < highest:
        power *= 10
    return next(step * power for step in (2, 4, 6, 8, 10) if step * power >= highest)


def _samples(connection: sqlite3.Connection, rule: str, window_start: str, source: str) -> list[str]:
    rows = connection.execute(SAMPLES_QUERY, (rule, window_start, source))
    return [str(sample) for (samples,) in rows for sample in json.loads(samples)][:_MAX_SAMPLES]


def _num_breaches(counts: dict[tuple[int, str], int], hour: int) -> int:
    return sum(counts.get((hour, rule), 0) for rule in RULES)


def _stack(counts: dict[tuple[int, str], int], hour: int, first_hour: int, top: int) -> list[Bar]:
    width, y, stack = 100 / NUM_HOURS, 100.0, []
    for rule in RULES:
        if number := counts.get((hour, rule), 0):
            height = 100 * number / top
            y -= height
            label = _hour_label(first_hour + hour)
            stack.append(Bar(rule, label, number, hour * width + 0.3, round(y, 3), width - 0.6, round(height, 3)))
    return stack


def _hour_label(hour: int) -> str:
    """The time of day of an hour since 1970."""
    return f"{hour % 24:02d}:00"
