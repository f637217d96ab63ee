"""Checks the ledger's consistency: rows against totals, breaches against alerts, events against deliveries.

Rejected rows that are only counted are rows here, as the metrics count them too. So are archived rows, of which the
ledger has sums: the files of the archive are read again and compared with them.

One snapshot is read, so a server may write at the same time.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llm_policy.ledger import alerts, metric_total
from llm_policy.ledger.outbox import FINANCE, PRUNED_EVENTS, READINESS, UNCOUNTED_EVENTS
from llmstack.ledger.account_checks import check_accounts, find_negative_values, has_accounts
from llmstack.ledger.archive_checks import ArchiveState, check_files, check_usage, read_state
from llmstack.ledger.archive_reader import INSTALL_PYARROW, ArchiveReader
from llmstack.ledger.discrepancy import Discrepancy, compare_sums
from llmstack.ledger.period import Period
from llmstack.ledger.rejections import read_rejections
from llmstack.ledger.row_group import KEYS, RowGroup, metric_sums

_COUNTED = "canary = 0 AND state <> 'admitted'"


class Verification(NamedTuple):
    """The amount of data checked, and the discrepancies."""

    num_rows: int
    num_archived: int  # rows besides `num_rows`, in the archive
    num_only_counted: int  # rejected rows besides these
    num_events: int
    cost_nano_usd: int
    discrepancies: list[Discrepancy]
    not_compared: list[str]  # checks that this ledger's data do not allow

    def as_json(self) -> dict[str, Any]:
        """All fields, with the discrepancies under `findings`."""
        return {
            "num_rows": self.num_rows,
            "num_archived": self.num_archived,
            "num_only_counted": self.num_only_counted,
            "num_events": self.num_events,
            "cost_nano_usd": self.cost_nano_usd,
            "findings": [each._asdict() for each in self.discrepancies],
            "not_compared": self.not_compared,
        }


def verify(
    connection: sqlite3.Connection, now_ns: int, max_open_s: float, archive: ArchiveReader | None = None
) -> Verification:
    """Run all checks. A row may be open for `max_open_s`; `now_ns` is Unix time. Without `archive` no file is read.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    connection.execute("BEGIN")
    try:
        pruned = _pruned(connection)
        not_compared = _skipped_checks(pruned)
        state = read_state(connection)
        sums = _sum_rows(connection)
        for each in state.sums.values():
            sums.update(each)
        discrepancies = [
            *_check_file(connection),
            *compare_sums(sums, metric_total.read_totals(connection)),
            *_invalid_rows(connection, now_ns, max_open_s),
            *find_negative_values(connection),
            *_orphans(connection),
            *_missing_events(connection, pruned),
            *([] if not_compared else _compare_alerts(connection, pruned)),
        ]
        if has_accounts(connection):
            discrepancies += check_accounts(connection)
        else:
            not_compared.append("usage and accounts of tenants: an earlier version wrote the ledger")
        (num_rows,) = connection.execute("SELECT count(*) FROM request").fetchone()
        num_only_counted = sum(each.num_rows for each in read_rejections(connection, Period()))
        (num_events,) = connection.execute("SELECT count(*) FROM event").fetchone()
        cost = metric_total.read_totals(connection)[metric_total.COST, ""]
    finally:
        connection.execute("COMMIT")
    found, skipped = _check_archive(state, archive)
    return Verification(
        *(num_rows, state.num_rows, num_only_counted, num_events, cost),
        discrepancies=[*discrepancies, *found],
        not_compared=[*not_compared, *skipped],
    )


def _check_archive(state: ArchiveState, archive: ArchiveReader | None) -> tuple[list[Discrepancy], list[str]]:
    """The discrepancies, and the checks that were not possible."""
    if not state.files:
        return check_usage(state), []
    reason = "they were not read"
    if archive is not None:
        try:
            return check_files(state, archive), []
        except ImportError:
            reason = INSTALL_PYARROW
    return check_usage(state), [f"archived rows with their files: {reason}"]


def _check_file(connection: sqlite3.Connection) -> Iterator[Discrepancy]:
    report = [line for (line,) in connection.execute("PRAGMA quick_check(10)")]
    if report != ["ok"]:
        yield Discrepancy("file integrity (PRAGMA quick_check)", "; ".join(report), "ok")


def _sum_rows(connection: sqlite3.Connection) -> Counter[tuple[str, str]]:
    """The totals by name and labels, computed from the rows."""
    keys = ", ".join(KEYS)
    rows = connection.execute(
        f"SELECT {keys}, count(*), sum(num_prompt_tokens), sum(num_completion_tokens), sum(actual_nano_usd) "  # noqa: S608
        f"FROM request WHERE {_COUNTED} GROUP BY {keys}"
    )
    sums = metric_sums(RowGroup(*row) for row in rows)
    for rejections in read_rejections(connection, Period()):
        task = rejections.task or metric_total.NO_TASK
        sums[metric_total.REQUESTS, f"{task},refused"] += rejections.num_rows
        sums[metric_total.REJECTED, rejections.code] += rejections.num_rows
    return sums


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
