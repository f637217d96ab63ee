"""Alerts by rule and window, and how many there were hour by hour."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from llm_policy.alerts import RULES

HOUR_NS = 3_600_000_000_000
NUM_HOURS = 24
PAGE_SIZE = 50
_MAX_SAMPLES = 10


class WindowSummary(NamedTuple):
    """All that was told of one rule in one window."""

    rule: str
    window_start: str
    window_end: str
    num_breaches: int
    observed_max: float
    threshold: float
    engine_hash: str
    samples: list[str]
    servers: list[str]


class Bar(NamedTuple):
    """One rule in one hour of the chart: breaches, and its place in per cent of the chart's size."""

    rule: str
    hour: str
    num_breaches: int
    x: float
    y: float
    width: float
    height: float


def count_windows(connection: sqlite3.Connection) -> int:
    """How many summaries there are."""
    return int(
        connection.execute("SELECT count(*) FROM (SELECT 1 FROM alert GROUP BY window_start, rule)").fetchone()[0]
    )


def window_summaries(connection: sqlite3.Connection, offset: int = 0) -> list[WindowSummary]:
    """A page of summaries, the newest window first. A window's first event and its summary add up."""
    rows = connection.execute(
        "SELECT rule, window_start, max(window_end), sum(count), max(observed_max), max(threshold), max(engine_hash) "
        "FROM alert GROUP BY window_start, rule ORDER BY window_start DESC, rule LIMIT ? OFFSET ?",
        (PAGE_SIZE, offset),
    ).fetchall()
    return [WindowSummary._make([*row, *_samples_and_servers(connection, row[0], row[1])]) for row in rows]


def bars(connection: sqlite3.Connection, now_ns: int) -> list[Bar]:
    """The chart of the last day: a column an hour, a bar a rule, as high as its breaches."""
    first_hour = now_ns // HOUR_NS - NUM_HOURS + 1
    rows = connection.execute(
        "SELECT time_ns / ?, rule, sum(count) FROM alert WHERE time_ns >= ? AND time_ns < ? GROUP BY 1, 2",
        (HOUR_NS, first_hour * HOUR_NS, (first_hour + NUM_HOURS) * HOUR_NS),
    ).fetchall()
    counts = {(int(hour) - first_hour, rule): int(number) for hour, rule, number in rows if rule in RULES}
    highest = max((_column(counts, hour) for hour in range(NUM_HOURS)), default=0)
    return [bar for hour in range(NUM_HOURS) for bar in _stack(counts, hour, first_hour, highest)] if highest else []


def _samples_and_servers(connection: sqlite3.Connection, rule: str, window_start: str) -> tuple[list[str], list[str]]:
    """The requests that are named, and the CloudEvents sources that name them."""
    rows = connection.execute(
        "SELECT samples, json_extract(CAST(body AS TEXT), '$.source') FROM alert JOIN event ON event.id = event_id "
        "WHERE rule = ? AND window_start = ? LIMIT 5",
        (rule, window_start),
    ).fetchall()
    samples = [str(sample) for samples, _ in rows for sample in json.loads(samples)]
    return samples[:_MAX_SAMPLES], sorted({str(server) for _, server in rows})


def _column(counts: dict[tuple[int, str], int], hour: int) -> int:
    return sum(counts.get((hour, rule), 0) for rule in RULES)


def _stack(counts: dict[tuple[int, str], int], hour: int, first_hour: int, highest: int) -> list[Bar]:
    width, y, stack = 100 / NUM_HOURS, 100.0, []
    for rule in RULES:
        if number := counts.get((hour, rule), 0):
            height = 100 * number / highest
            y -= height
            clock = f"{(first_hour + hour) % 24:02d}:00"
            stack.append(Bar(rule, clock, number, hour * width + 0.3, round(y, 3), width - 0.6, round(height, 3)))
    return stack
