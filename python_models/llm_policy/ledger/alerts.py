"""Alerts with deduplication: a window's first breach is reported immediately, the later ones in one summary event.

Each event covers `count` breaches that no other event covers: the first event covers one, the summary covers all later
ones of the window. The counts therefore add up to the number of breaches. A window with one breach has no summary.

A window belongs to one rule and one engine: the first breach of another engine closes it and writes its summary.

Windows are database rows, changed in the transaction of the request that breached, so neither a restart nor a second
process repeats or loses a breach. The parent process writes the summaries of windows that have ended, each second; so
does a breach that arrives after its rule's window has ended.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from datetime import datetime, timezone
from typing import Any, NamedTuple

from llm_policy.ledger import metric_total
from llm_policy.ledger.outbox import FINANCE, READINESS, append, new_event
from llm_policy.pricing import usd

EVENT_TYPE = "llm_observability_alert"
QUEUE_DELAY, COST, SCHEMA_VIOLATION, ENGINE_UNHEALTHY = RULES = metric_total.RULES
WINDOW_NS = 60_000_000_000
MAX_SAMPLES = 10
# Finance events list every request. A longer list is split into several events, each with its own count.
MAX_REQUESTS_PER_EVENT = 1_000

TABLES = """
CREATE TABLE IF NOT EXISTS alert_window (
    rule TEXT PRIMARY KEY,
    started_ns INTEGER NOT NULL,    -- Unix time of the first breach
    num_breaches INTEGER NOT NULL,  -- after the first
    observed_max INTEGER NOT NULL,  -- among these
    threshold INTEGER NOT NULL,
    engine_hash TEXT NOT NULL,
    quantisation TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alert_breach (  -- the breaches that the window's summary lists
    rule TEXT NOT NULL,
    number INTEGER NOT NULL,
    ledger_id INTEGER,
    request_id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    observed INTEGER NOT NULL,
    PRIMARY KEY (rule, number)
) WITHOUT ROWID;
"""

_REPORTED = """
SELECT endpoint, json_extract(CAST(body AS TEXT), '$.data.rule'), sum(json_extract(CAST(body AS TEXT), '$.data.count'))
FROM event JOIN delivery ON event_sequence = sequence WHERE type = ?{} GROUP BY 1, 2
"""
_OF_SEQUENCES = " AND sequence IN (SELECT value FROM json_each(?))"


class AlertRule(NamedTuple):
    """A rule with its threshold, for one engine. Units: µs for queue_delay, nano-dollars for cost, else a count."""

    name: str
    threshold: int
    engine_hash: str
    quantisation: str


class Breach(NamedTuple):
    """One request beyond a threshold; `observed` is in the rule's unit."""

    observed: int
    request_id: str = ""
    tenant: str = ""
    ledger_id: int | None = None

    @property
    def sample(self) -> str:
        """The request's name in `samples`: the client's request id, or the ledger id if the client sent none."""
        return self.request_id or (f"ledger:{self.ledger_id}" if self.ledger_id is not None else "")


class _Window(NamedTuple):
    rule: str
    started_ns: int
    num_breaches: int
    observed_max: int
    threshold: int
    engine_hash: str
    quantisation: str


def record_breach(connection: sqlite3.Connection, rule: AlertRule, breach: Breach, now_ns: int) -> None:
    """Add one breach in the caller's transaction; the first breach of a window also appends an event."""
    metric_total.add(connection, {(metric_total.ALERTS, rule.name): 1})
    window = _find_window(connection, rule.name)
    # After a release switch, a breach of the new engine must not be counted in the old engine's window.
    if window is not None and (_has_ended(window, now_ns) or window.engine_hash != rule.engine_hash):
        _close(connection, window, now_ns)
        window = None
    if window is None:
        window = _Window(rule.name, now_ns, 0, 0, *rule[1:])
        connection.execute("INSERT INTO alert_window VALUES (?, ?, ?, ?, ?, ?, ?)", window)
        first = window._replace(num_breaches=1, observed_max=breach.observed)
        _report(connection, first, [breach], now_ns, phase="first")
    else:
        _add_to_window(connection, window, breach)


def close_due_windows(connection: sqlite3.Connection, now_ns: int) -> int:
    """Close every window that has ended and write its summary, in the caller's transaction.

    Returns the number of windows closed.
    """
    due = [window for window in _windows(connection) if _has_ended(window, now_ns)]
    for window in due:
        _close(connection, window, now_ns)
    return len(due)


def has_due_windows(connection: sqlite3.Connection, now_ns: int) -> bool:
    """Whether `close_due_windows` would close one; saves the caller an empty transaction."""
    return any(_has_ended(window, now_ns) for window in _windows(connection))


def count_reported_breaches(
    connection: sqlite3.Connection, sequences: Collection[int] | None = None
) -> dict[tuple[str, str], int]:
    """Number of breaches in the stored alert events, by (endpoint, rule).

    `sequences` restricts the count to the events with these sequence numbers.
    """
    condition, values = ("", ()) if sequences is None else (_OF_SEQUENCES, (json.dumps(list(sequences)),))
    rows = connection.execute(_REPORTED.format(condition), (EVENT_TYPE, *values))
    return {(endpoint, rule): number for endpoint, rule, number in rows if number}


def _windows(connection: sqlite3.Connection) -> list[_Window]:
    return [_Window(*row) for row in connection.execute("SELECT * FROM alert_window")]


def _find_window(connection: sqlite3.Connection, rule: str) -> _Window | None:
    row = connection.execute("SELECT * FROM alert_window WHERE rule = ?", (rule,)).fetchone()
    return _Window(*row) if row else None


def _has_ended(window: _Window, now_ns: int) -> bool:
    """Uses the absolute difference: a clock set back by more than a window must not keep it open forever."""
    return abs(now_ns - window.started_ns) >= WINDOW_NS


def _add_to_window(connection: sqlite3.Connection, window: _Window, breach: Breach) -> None:
    connection.execute(
        "UPDATE alert_window SET num_breaches = num_breaches + 1, observed_max = max(observed_max, ?) WHERE rule = ?",
        (breach.observed, window.rule),
    )
    if window.rule == COST or window.num_breaches < MAX_SAMPLES:
        connection.execute(
            "INSERT INTO alert_breach (rule, number, observed, request_id, tenant, ledger_id) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (window.rule, window.num_breaches, *breach),
        )


def _close(connection: sqlite3.Connection, window: _Window, now_ns: int) -> None:
    if window.num_breaches:
        rows = connection.execute(
            "SELECT observed, request_id, tenant, ledger_id FROM alert_breach WHERE rule = ? ORDER BY number",
            (window.rule,),
        )
        _report(connection, window, [Breach(*row) for row in rows], now_ns, phase="summary")
    connection.execute("DELETE FROM alert_breach WHERE rule = ?", (window.rule,))
    connection.execute("DELETE FROM alert_window WHERE rule = ?", (window.rule,))


def _report(connection: sqlite3.Connection, window: _Window, breaches: list[Breach], now_ns: int, phase: str) -> None:
    """Append the readiness event and, for cost breaches, the finance events."""
    _append(connection, _payload(window, breaches, phase), READINESS, now_ns)
    if window.rule != COST:
        return
    for start in range(0, len(breaches), MAX_REQUESTS_PER_EVENT):
        listed = breaches[start : start + MAX_REQUESTS_PER_EVENT]
        part = window._replace(num_breaches=len(listed), observed_max=max(breach.observed for breach in listed))
        payload = _payload(part, listed, phase)
        payload["requests"] = [_listed_request(breach) for breach in listed]
        _append(connection, payload, FINANCE, now_ns)


def _payload(window: _Window, breaches: list[Breach], phase: str) -> dict[str, Any]:
    """The event's data; `threshold` and `observed_max` are µs for queue_delay, US dollars for cost, else counts."""
    unit = usd if window.rule == COST else int
    return {
        "rule": window.rule,
        "phase": phase,
        "threshold": unit(window.threshold),
        "observed_max": unit(window.observed_max),
        "count": window.num_breaches,
        "window_start": _utc(window.started_ns),
        "window_end": _utc(window.started_ns + WINDOW_NS),
        "engine_hash": window.engine_hash,
        "quantisation": window.quantisation,
        "samples": [breach.sample for breach in breaches[:MAX_SAMPLES] if breach.sample],
    }


def _listed_request(breach: Breach) -> dict[str, Any]:
    return {
        "ledger_id": breach.ledger_id,
        "request_id": breach.request_id,
        "tenant": breach.tenant,
        "cost_usd": usd(breach.observed),
    }


def _append(connection: sqlite3.Connection, payload: dict[str, Any], endpoint: str, now_ns: int) -> None:
    append(connection, new_event(EVENT_TYPE, payload, now_ns, subject=payload["rule"]), [endpoint])


def _utc(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, timezone.utc).isoformat().replace("+00:00", "Z")
