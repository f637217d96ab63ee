"""Checks the ledger's consistency: rows against totals, breaches against alerts, events against deliveries.

Rejected rows that are only counted are rows here: the metrics count them too.

One snapshot is read, so a server may write at the same time.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llm_policy.ledger import alerts, metric_total
from llm_policy.ledger.ledger import RULE_OF_FLAG
from llm_policy.ledger.outbox import FINANCE, PRUNED_EVENTS, READINESS, UNCOUNTED_EVENTS
from llmstack.ledger.period import Period
from llmstack.ledger.rejections import read_rejections

_COUNTED = "canary = 0 AND state <> 'admitted'"


class Discrepancy(NamedTuple):
    """Two values that should be equal, or a number of rows that should be 0."""

    check: str
    in_rows: Any
    in_totals: Any


class Verification(NamedTuple):
    """The amount of data checked, and the discrepancies."""

    num_rows: int
    num_only_counted: int  # rejected rows besides `num_rows`
    num_events: int
    cost_nano_usd: int
    discrepancies: list[Discrepancy]
    not_compared: list[str]  # checks that this ledger's data do not allow

    def as_json(self) -> dict[str, Any]:
        """All fields, with the discrepancies under `findings`."""
        return {
            "num_rows": self.num_rows,
            "num_only_counted": self.num_only_counted,
            "num_events": self.num_events,
            "cost_nano_usd": self.cost_nano_usd,
            "findings": [each._asdict() for each in self.discrepancies],
            "not_compared": self.not_compared,
        }


def verify(connection: sqlite3.Connection, now_ns: int, max_open_s: float) -> Verification:
    """Run all checks. A row may be open for `max_open_s`; `now_ns` is Unix time.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    connection.execute("BEGIN")
    try:
        pruned = _pruned(connection)
        not_compared = _skipped_checks(pruned)
        discrepancies = [
            *_check_file(connection),
            *_compare_totals(_sum_rows(connection), metric_total.read_totals(connection)),
            *_invalid_rows(connection, now_ns, max_open_s),
            *_orphans(connection),
            *_missing_events(connection, pruned),
            *([] if not_compared else _compare_alerts(connection, pruned)),
        ]
        (num_rows,) = connection.execute("SELECT count(*) FROM request").fetchone()
        num_only_counted = sum(each.num_rows for each in read_rejections(connection, Period()))
        (num_events,) = connection.execute("SELECT count(*) FROM event").fetchone()
        cost = metric_total.read_totals(connection)[metric_total.COST, ""]
    finally:
        connection.execute("COMMIT")
    return Verification(num_rows, num_only_counted, num_events, cost, discrepancies, not_compared)


def _check_file(connection: sqlite3.Connection) -> Iterator[Discrepancy]:
    report = [line for (line,) in connection.execute("PRAGMA quick_check(10)")]
    if report != ["ok"]:
        yield Discrepancy("file integrity (PRAGMA quick_check)", "; ".join(report), "ok")


def _sum_rows(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """The totals by name and labels, computed from the rows."""
    sums: Counter[tuple[str, str]] = Counter()
    for task, state, swept_as, num_rows, tokens_in, tokens_out, nano_usd in connection.execute(
        "SELECT task, state, swept_as, count(*), sum(num_prompt_tokens), sum(num_completion_tokens), "  # noqa: S608
        f"sum(actual_nano_usd) FROM request WHERE {_COUNTED} GROUP BY task, state, swept_as"
    ):
        task = task or metric_total.NO_TASK
        sums[metric_total.REQUESTS, f"{task},{swept_as or state}"] += num_rows
        if swept_as:
            sums[metric_total.REQUESTS, f"{task},{metric_total.LATE}"] += num_rows
        sums[metric_total.COST, ""] += nano_usd
        if state != "refused":
            sums[metric_total.TOKENS_IN, ""] += tokens_in
            sums[metric_total.TOKENS_OUT, ""] += tokens_out
    for code, num_rows in connection.execute(
        f"SELECT code, count(*) FROM request WHERE {_COUNTED} AND state = 'refused' GROUP BY code"  # noqa: S608
    ):
        sums[metric_total.REJECTED, code] += num_rows
    for rejections in read_rejections(connection, Period()):
        task = rejections.task or metric_total.NO_TASK
        sums[metric_total.REQUESTS, f"{task},refused"] += rejections.num_rows
        sums[metric_total.REJECTED, rejections.code] += rejections.num_rows
    for rule, num_rows in _breaches(connection).items():
        sums[metric_total.ALERTS, rule] += num_rows
        if rule == alerts.SCHEMA_VIOLATION:
            sums[metric_total.VIOLATIONS, ""] += num_rows
    return dict(sums)


def _breaches(connection: sqlite3.Connection) -> Counter[str]:
    """The number of breaches by rule, from the rows' flags."""
    breaches: Counter[str] = Counter()
    for flags, num_rows in connection.execute(
        f"SELECT flags, count(*) FROM request WHERE {_COUNTED} AND flags <> '' GROUP BY flags"  # noqa: S608
    ):
        breaches.update({RULE_OF_FLAG[flag]: num_rows for flag in flags.split(",") if flag in RULE_OF_FLAG})
    return breaches


def _compare_totals(
    sums: Mapping[tuple[str, str], int], totals: Mapping[tuple[str, str], int]
) -> Iterator[Discrepancy]:
    for name, labels in sorted({*sums, *totals}):
        in_rows, in_totals = sums.get((name, labels), 0), totals.get((name, labels), 0)
        # No row records the engine's health.
        if in_rows != in_totals and (name, labels) != (metric_total.ALERTS, alerts.ENGINE_UNHEALTHY):
            yield Discrepancy(f"{name} {labels}".rstrip(), in_rows, in_totals)


def _invalid_rows(connection: sqlite3.Connection, now_ns: int, max_open_s: float) -> Iterator[Discrepancy]:
    oldest_ns = now_ns - int(max_open_s * 1e9)
    conditions = {
        f"rows open for more than {max_open_s:g} s": f"state = 'admitted' AND admitted_ns < {oldest_ns}",
        "closed rows without a closing time": "state <> 'admitted' AND closed_ns IS NULL",
        "refused rows with a cost": "state = 'refused' AND actual_nano_usd <> 0",
        "refused rows without a code": "state = 'refused' AND code = ''",
    }
    for check, condition in conditions.items():
        (num_rows,) = connection.execute(f"SELECT count(*) FROM request WHERE {condition}").fetchone()  # noqa: S608
        if num_rows:
            yield Discrepancy(check, num_rows, 0)


def _orphans(connection: sqlite3.Connection) -> Iterator[Discrepancy]:
    queries = {
        "events without a delivery": "event WHERE sequence NOT IN (SELECT event_sequence FROM delivery)",
        "deliveries without their event": "delivery WHERE event_sequence NOT IN (SELECT sequence FROM event)",
    }
    for check, query in queries.items():
        (number,) = connection.execute(f"SELECT count(*) FROM {query}").fetchone()  # noqa: S608
        if number:
            yield Discrepancy(check, number, 0)


def _pruned(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """The counts of deleted events and of the breaches that they reported, by endpoint and rule."""
    try:
        rows = connection.execute("SELECT endpoint, rule, value FROM pruned_total")
    except sqlite3.OperationalError:  # an earlier version wrote the ledger, which has no such table yet
        return {UNCOUNTED_EVENTS: _num_deleted_events(connection)}
    return {(endpoint, rule): value for endpoint, rule, value in rows}


def _skipped_checks(pruned: Mapping[tuple[str, str], int]) -> list[str]:
    number = pruned.get(UNCOUNTED_EVENTS, 0)
    if not number:
        return []
    return [f"breaches with their alerts: an earlier version deleted {number} events without counting their breaches"]


def _missing_events(connection: sqlite3.Connection, pruned: Mapping[tuple[str, str], int]) -> Iterator[Discrepancy]:
    num_missing = _num_deleted_events(connection)
    num_counted = pruned.get(PRUNED_EVENTS, 0) + pruned.get(UNCOUNTED_EVENTS, 0)
    if num_missing != num_counted:
        yield Discrepancy("deleted events", num_missing, num_counted)


def _num_deleted_events(connection: sqlite3.Connection) -> int:
    (num_events,) = connection.execute("SELECT count(*) FROM event").fetchone()
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    return (int(row[0]) if row else 0) - int(num_events)


def _compare_alerts(connection: sqlite3.Connection, pruned: Mapping[tuple[str, str], int]) -> Iterator[Discrepancy]:
    """Breaches that were counted but are neither reported nor pending in an open window, or the reverse."""
    counted = {
        rule: number
        for (name, rule), number in metric_total.read_totals(connection).items()
        if name == metric_total.ALERTS
    }
    pending = dict(connection.execute("SELECT rule, num_breaches FROM alert_window"))
    reported = alerts.count_reported_breaches(connection)
    for endpoint, rules in ((READINESS, alerts.RULES), (FINANCE, (alerts.COST,))):
        for rule in rules:
            number = reported.get((endpoint, rule), 0) + pruned.get((endpoint, rule), 0) + pending.get(rule, 0)
            if number != counted[rule]:
                yield Discrepancy(f"breaches of {rule} reported to {endpoint} or pending", number, counted[rule])
