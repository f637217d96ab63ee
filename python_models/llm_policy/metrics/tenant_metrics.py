"""Metrics by tenant, read from the ledger at each scrape.

Only tenants that the operator names have series of their own; all other rows are `other`, which is the ledger's total
without them. So clients add no series, and the sum over all tenants is always the total.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llm_policy.ledger.budget_window import DAY, MONTH, day_of, windows_of
from llm_policy.ledger.database import open_read_only
from llm_policy.ledger.metric_total import COST, REQUESTS, TOKENS_IN, TOKENS_OUT, read_totals
from llm_policy.ledger.tables import CANCELLED, LOST, REFUSED, SETTLED
from llm_policy.ledger.tenant import TenantLimits, read_limits
from llm_policy.ledger.tenant_account import read_spending
from llm_policy.pricing import usd

OTHER = "other"

_USED = (
    "SELECT sum(num_rows), sum(num_prompt_tokens), sum(num_completion_tokens), sum(nano_usd) "
    "FROM usage_day WHERE tenant = ?"
)
_REFUSED = "SELECT sum(num_rows) FROM refusal_day WHERE tenant = ?"


class _Counts(NamedTuple):
    """What one tenant has used since the ledger began."""

    num_closed: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    nano_usd: int = 0
    num_refused: int = 0

    def without(self, others: Sequence[_Counts]) -> _Counts:
        """These counts less those of `others`."""
        return _Counts._make(mine - sum(theirs) for mine, *theirs in zip(self, *others, strict=True))


class _Budget(NamedTuple):
    """One budget of one tenant in its current window, in nano-dollars; no `limit` if it has none."""

    name: str
    limit: int | None
    spent: int
    reserved: int


class TenantMetrics(Collector):
    """The series of `tenants` and of all others together, from the ledger at `path`.

    Collecting raises sqlite3.Error if the ledger can't be read.
    """

    def __init__(self, path: Path, tenants: Sequence[str], clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._path, self._tenants, self._clock_ns = path, tenants, clock_ns

    def describe(self) -> Iterator[Metric]:
        """Empty, so that registering does not collect."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Counters of every tenant and `other`; budgets of the tenants only."""
        with closing(open_read_only(self._path)) as connection:
            connection.execute("BEGIN")  # all queries see one state, or `other` could go down
            counts = {tenant: _read_counts(connection, tenant) for tenant in self._tenants}
            counts[OTHER] = _read_total(connection).without(list(counts.values()))
            now_ns = self._clock_ns()
            budgets = {tenant: _read_budgets(connection, tenant, now_ns) for tenant in self._tenants}
        yield from _counters(counts)
        yield from _gauges(budgets)


def _read_counts(connection: sqlite3.Connection, tenant: str) -> _Counts:
    used = connection.execute(_USED, (tenant,)).fetchone()
    refused = connection.execute(_REFUSED, (tenant,)).fetchone()
    return _Counts(*(int(value or 0) for value in (*used, *refused)))


def _read_total(connection: sqlite3.Connection) -> _Counts:
    totals = read_totals(connection)
    rows = {SETTLED: 0, CANCELLED: 0, LOST: 0, REFUSED: 0}
    for (name, labels), value in totals.items():
        outcome = labels.rpartition(",")[2]
        if name == REQUESTS and outcome in rows:
            rows[outcome] += value
    return _Counts(
        rows[SETTLED] + rows[CANCELLED] + rows[LOST],
        totals[TOKENS_IN, ""],
        totals[TOKENS_OUT, ""],
        totals[COST, ""],
        rows[REFUSED],
    )


def _read_budgets(connection: sqlite3.Connection, tenant: str, now_ns: int) -> list[_Budget]:
    limits: TenantLimits = read_limits(connection, tenant)
    limit_of = {DAY: limits.max_nano_usd_per_day, MONTH: limits.max_nano_usd_per_month}
    return [
        _Budget(window.name, limit_of[window.name], *read_spending(connection, tenant, window))
        for window in windows_of(day_of(now_ns))
    ]


def _counters(counts: dict[str, _Counts]) -> Iterator[Metric]:
    cost = CounterMetricFamily("llm_tenant_cost_usd_total", "Cost of closed rows in US dollars", labels=["tenant"])
    tokens = CounterMetricFamily("llm_tenant_tokens_total", "Tokens of closed rows", labels=["tenant", "direction"])
    requests = CounterMetricFamily(
        "llm_tenant_requests_total",
        "Rows that the engine was asked for and that are closed, and refused rows",
        labels=["tenant", "outcome"],
    )
    for tenant, count in counts.items():
        cost.add_metric([tenant], usd(count.nano_usd))
        tokens.add_metric([tenant, "in"], count.num_prompt_tokens)
        tokens.add_metric([tenant, "out"], count.num_completion_tokens)
        requests.add_metric([tenant, "closed"], count.num_closed)
        requests.add_metric([tenant, "refused"], count.num_refused)
    yield from (cost, tokens, requests)


def _gauges(budgets: dict[str, list[_Budget]]) -> Iterator[Metric]:
    labels = ["tenant", "budget"]
    limit = GaugeMetricFamily("llm_tenant_budget_usd", "Budget in US dollars, if the tenant has one", labels=labels)
    spent = GaugeMetricFamily("llm_tenant_budget_spent_usd", "Spent in this window, in US dollars", labels=labels)
    reserved = GaugeMetricFamily(
        "llm_tenant_budget_reserved_usd", "Reserved for open rows of this window, in US dollars", labels=labels
    )
    for tenant, each in ((tenant, each) for tenant, found in budgets.items() for each in found):
        if each.limit is not None:
            limit.add_metric([tenant, each.name], usd(each.limit))
        spent.add_metric([tenant, each.name], usd(each.spent))
        reserved.add_metric([tenant, each.name], usd(each.reserved))
    yield from (limit, spent, reserved)
