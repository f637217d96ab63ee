"""Whether the books agree with themselves: rows with totals, breaches with alerts, events with deliveries.

All is read in one snapshot, so a server may be writing meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llm_policy.ledger import alerts, metric_total
from llm_policy.ledger.ledger import RULE_OF_FLAG
from llm_policy.ledger.outbox import FINANCE, PRUNED_EVENTS, READINESS, UNCOUNTED_EVENTS

_COUNTED = "canary = 0 AND state <> 'admitted'"


class Discrepancy(NamedTuple):
    """Two figures that ought to be the same, or the number of rows that ought not to be there."""

    check: str
    in_rows: Any
    in_totals: Any


class Verification(NamedTuple):
    """How much was looked at, and what differs."""

    num_rows: int
    num_events: int
    cost_nano_usd: int
    findings: list[Discrepancy]
    not_compared: list[str]


def verify(connection: sqlite3.Connection, now_ns: int, max_open_s: float) -> Verification:
    """Compare everything; `max_open_s` is how long a row may be open.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    connection.execute("BEGIN")
    try:
        pruned = _pruned(connection)
        not_compared = _not_compared(pruned)
        findings = [
            *_damage(connection),
            *_differences(_sums(connection), metric_total.read_totals(connection)),
            *_bad_rows(connection, now_ns, max_open_s),
            *_orphans(connection),
            *_missing_events(connection, pruned),
            *([] if not_compared else _untold(connection, pruned)),
        ]
        (num_rows,) = connection.execute("SELECT count(*) FROM request").fetchone()
        (num_events,) = connection.execute("SELECT count(*) FROM event").fetchone()
        cost = metric_total.read_totals(connection)[metric_total.COST, ""]
    finally:
        connection.execute("COMMIT")
    return Verification(num_rows, num_events, cost, findings, not_compared)


def _damage(connection: sqlite3.Connection) -> Iterator[Discrepancy]:
    told = [line for (line,) in connection.execute("PRAGMA quick_check(10)")]
    if told != ["ok"]:
        yield Discrepancy("the file is whole (PRAGMA quick_check)", "; ".join(told), "ok")


def _sums(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """What the rows say that the totals are."""
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
    for rule, num_rows in _breaches(connection).items():
        sums[metric_total.ALERTS, rule] += num_rows
        if rule == alerts.SCHEMA_VIOLATION:
            sums[metric_total.VIOLATIONS, ""] += num_rows
    return dict(sums)


def _breaches(connection: sqlite3.Connection) -> Counter[str]:
    """By rule, what the rows' flags say."""
    breaches: Counter[str] = Counter()
    for flags, num_rows in connection.execute(
        f"SELECT flags, count(*) FROM request WHERE {_COUNTED} AND flags <> '' GROUP BY flags"  # noqa: S608
    ):
        breaches.update({RULE_OF_FLAG[flag]: num_rows for flag in flags.split(",") if flag in RULE_OF_FLAG})
    return breaches


def _differences(sums: Mapping[tuple[str, str], int], totals: Mapping[tuple[str, str], int]) -> Iterator[Discrepancy]:
    for name, labels in sorted({*sums, *totals}):
        in_rows, in_totals = sums.get((name, labels), 0), totals.get((name, labels), 0)
        # The engine's health is no row's.
        if in_rows != in_totals and (name, labels) != (metric_total.ALERTS, alerts.ENGINE_UNHEALTHY):
            yield Discrepancy(f"{name} {labels}".rstrip(), in_rows, in_totals)


def _bad_rows(connection: sqlite3.Connection, now_ns: int, max_open_s: float) -> Iterator[Discrepancy]:
    oldest_ns = now_ns - int(max_open_s * 1e9)
    conditions = {
        f"rows open for more than {max_open_s:g} s": f"state = 'admitted' AND admitted_ns < {oldest_ns}",
        "closed rows without a time": "state <> 'admitted' AND closed_ns IS NULL",
        "refused rows that cost something": "state = 'refused' AND actual_nano_usd <> 0",
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
    """What is known of events that were deleted; empty in a ledger that this version has not opened yet."""
    try:
        rows = connection.execute("SELECT endpoint, rule, value FROM pruned_total")
    except sqlite3.OperationalError:
        return {UNCOUNTED_EVENTS: _num_events_gone(connection)}
    return {(endpoint, rule): value for endpoint, rule, value in rows}


def _not_compared(pruned: Mapping[tuple[str, str], int]) -> list[str]:
    number = pruned.get(UNCOUNTED_EVENTS, 0)
    if not number:
        return []
    return [f"breaches with what was told of them: {number} events were deleted by a version that did not count them"]


def _missing_events(connection: sqlite3.Connection, pruned: Mapping[tuple[str, str], int]) -> Iterator[Discrepancy]:
    num_gone = _num_events_gone(connection)
    num_deleted = pruned.get(PRUNED_EVENTS, 0) + pruned.get(UNCOUNTED_EVENTS, 0)
    if num_gone != num_deleted:
        yield Discrepancy("events that are gone", num_gone, num_deleted)


def _num_events_gone(connection: sqlite3.Connection) -> int:
    (num_events,) = connection.execute("SELECT count(*) FROM event").fetchone()
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    return (int(row[0]) if row else 0) - int(num_events)


def _untold(connection: sqlite3.Connection, pruned: Mapping[tuple[str, str], int]) -> Iterator[Discrepancy]:
    """Breaches that were told, or wait in their window, are those that were counted."""
    counted = {
        rule: number
        for (name, rule), number in metric_total.read_totals(connection).items()
        if name == metric_total.ALERTS
    }
    waiting = dict(connection.execute("SELECT rule, num_breaches FROM alert_window"))
    told = alerts.told(connection)
    for endpoint, rules in ((READINESS, alerts.RULES), (FINANCE, (alerts.COST,))):
        for rule in rules:
            number = told.get((endpoint, rule), 0) + pruned.get((endpoint, rule), 0) + waiting.get(rule, 0)
            if number != counted[rule]:
                yield Discrepancy(f"breaches of {rule} told to {endpoint} or waiting to be", number, counted[rule])
