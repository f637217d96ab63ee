"""Alerts without a storm: the first breach of a rule is told at once, what follows within its window in one summary.

Every event stands for the `count` breaches that no other event stands for: the first for one, the summary for all
later ones of the window. So counts add up to the number of breaches. A window with one breach has no summary.

A window is of one rule and one engine: the first breach of another engine closes it with its summary.

The windows are rows of the database, changed in the transaction of the request that breached: neither a restart nor a
second process repeats or forgets one. A summary is written by the parent, which looks each second, or by whoever
records a breach into a window that has ended.
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
# The finance side gets every request; longer lists go out as several events, each counting its own.
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
CREATE TABLE IF NOT EXISTS alert_breach (  -- the breaches that the window's summary names
    rule TEXT NOT NULL,
    number INTEGER NOT NULL,
    ledger_id INTEGER,
    request_id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    observed INTEGER NOT NULL,
    PRIMARY KEY (rule, number)
) WITHOUT ROWID;
"""

_TOLD = """
SELECT endpoint, json_extract(CAST(body AS TEXT), '$.data.rule'), sum(json_extract(CAST(body AS TEXT), '$.data.count'))
FROM event JOIN delivery ON event_sequence = sequence WHERE type = ?{} GROUP BY 1, 2
"""
_AMONG = " AND sequence IN (SELECT value FROM json_each(?))"


class Breach(NamedTuple):
    """One request beyond a threshold; `observed` is in the rule's unit: µs, nano-dollars or a plain count."""

    observed: int
    request_id: str = ""
    tenant: str = ""
    ledger_id: int | None = None

    @property
    def name(self) -> str:
        """How a sample names the request: by the client's id, or by the ledger's where it sent none."""
        return self.request_id or (f"ledger:{self.ledger_id}" if self.ledger_id is not None else "")


class _Window(NamedTuple):
    rule: str
    started_ns: int
    num_breaches: int
    observed_max: int
    threshold: int
    engine_hash: str
    quantisation: str


def record_breach(
    connection: sqlite3.Connection,
    rule: str,
    breach: Breach,
    *,
    threshold: int,
    engine_hash: str,
    quantisation: str,
    now_ns: int,
) -> None:
    """Add one breach to the caller's transaction; the first of a window becomes an event at once."""
    metric_total.add(connection, {(metric_total.ALERTS, rule): 1})
    window = _window(connection, rule)
    # A breach of another engine, after a switch, does not belong among those of the one before.
    if window is not None and (_is_over(window, now_ns) or window.engine_hash != engine_hash):
        _close(connection, window, now_ns)
        window = None
    if window is None:
        window = _Window(rule, now_ns, 0, 0, threshold, engine_hash, quantisation)
        connection.execute("INSERT INTO alert_window VALUES (?, ?, ?, ?, ?, ?, ?)", window)
        _tell(
            connection, window._replace(num_breaches=1, observed_max=breach.observed), [breach], now_ns, phase="first"
        )
    else:
        _keep(connection, window, breach)


def close_due_windows(connection: sqlite3.Connection, now_ns: int) -> int:
    """Write the summary of every window that has ended, in the caller's transaction; how many ended."""
    due = [window for window in _windows(connection) if _is_over(window, now_ns)]
    for window in due:
        _close(connection, window, now_ns)
    return len(due)


def told(connection: sqlite3.Connection, among: Collection[int] | None = None) -> dict[tuple[str, str], int]:
    """How many breaches the events there are have told, by endpoint and rule; of those with these sequences alone."""
    only, values = ("", ()) if among is None else (_AMONG, (json.dumps(list(among)),))
    rows = connection.execute(_TOLD.format(only), (EVENT_TYPE, *values))
    return {(endpoint, rule): number for endpoint, rule, number in rows if number}


def has_due_windows(connection: sqlite3.Connection, now_ns: int) -> bool:
    """Whether `close_due_windows` would find one: saves its caller an empty transaction."""
    return any(_is_over(window, now_ns) for window in _windows(connection))


def _windows(connection: sqlite3.Connection) -> list[_Window]:
    return [_Window(*row) for row in connection.execute("SELECT * FROM alert_window")]


def _window(connection: sqlite3.Connection, rule: str) -> _Window | None:
    row = connection.execute("SELECT * FROM alert_window WHERE rule = ?", (rule,)).fetchone()
    return _Window(*row) if row else None


def _is_over(window: _Window, now_ns: int) -> bool:
    """A clock that was set back by more than a window must not keep one open for ever."""
    return abs(now_ns - window.started_ns) >= WINDOW_NS


def _keep(connection: sqlite3.Connection, window: _Window, breach: Breach) -> None:
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
        _tell(connection, window, [Breach(*row) for row in rows], now_ns, phase="summary")
    connection.execute("DELETE FROM alert_breach WHERE rule = ?", (window.rule,))
    connection.execute("DELETE FROM alert_window WHERE rule = ?", (window.rule,))


def _tell(connection: sqlite3.Connection, window: _Window, breaches: list[Breach], now_ns: int, phase: str) -> None:
    _append(connection, _payload(window, breaches, phase), READINESS, now_ns)
    if window.rule != COST:
        return
    for start in range(0, len(breaches), MAX_REQUESTS_PER_EVENT):
        listed = breaches[start : start + MAX_REQUESTS_PER_EVENT]
        part = window._replace(num_breaches=len(listed), observed_max=max(breach.observed for breach in listed))
        payload = _payload(part, listed, phase)
        payload["requests"] = [_listed(breach) for breach in listed]
        _append(connection, payload, FINANCE, now_ns)


def _payload(window: _Window, breaches: list[Breach], phase: str) -> dict[str, Any]:
    """`threshold` and `observed_max` are µs for queue_delay, US dollars for cost, and counts else."""
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
        "samples": [breach.name for breach in breaches[:MAX_SAMPLES] if breach.name],
    }


def _listed(breach: Breach) -> dict[str, Any]:
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
