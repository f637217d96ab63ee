"""The template values of the pages of tenants, read from the service's ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from llm_policy.ledger.budget_window import NS_PER_DAY, date_of, day_of
from llm_policy.ledger.database import FILE_NAME, open_read_only
from llmstack.board.budget_use import BudgetUse, budget_uses
from llmstack.board.cost_chart import NUM_DAYS, make_chart
from llmstack.board.sessions import Session
from llmstack.ledger.period import Period
from llmstack.tenants.tenant_status import KEY_STATES, TenantStatus, read_statuses
from llmstack.tenants.usage_report import UsageReport, make_usage

PAGE_SIZE = 50
MAX_GROUPS = 20
_USAGE_TABLES = {"task": "Task", "schema": "Schema", "model": "Model"}
_REFUSALS = (
    "SELECT code, sum(num_rows) FILTER (WHERE day = :today), sum(num_rows) FROM refusal_day "
    "WHERE tenant = :tenant AND day >= :first AND day <= :today GROUP BY code ORDER BY sum(num_rows) DESC, code"
)


class TenantRow(NamedTuple):
    """A tenant in the list."""

    status: TenantStatus
    budgets: tuple[BudgetUse, BudgetUse]
    num_refused: int
    keys: dict[str, int]
    """The number of its keys in each state."""


class LimitRow(NamedTuple):
    """A limit that is no budget: what is used now, and the limit; None: there is none."""

    name: str
    used: int
    limit: int | None


class LedgerUnreadable(Exception):
    """The ledger can't be read; the text is for the page."""


@contextmanager
def open_ledger(state_dir: Path) -> Iterator[sqlite3.Connection]:
    """One read transaction on the ledger of the service whose state directory this is.

    Raises:
        LedgerUnreadable: it does not exist, or is one of another version.
    """
    path = state_dir / FILE_NAME
    try:
        with closing(open_read_only(path)) as connection:
            connection.execute("BEGIN")
            yield connection
    except sqlite3.Error as error:
        raise LedgerUnreadable(f"{path} can't be read: {error}") from error


def tenants_page(connection: sqlite3.Connection, session: Session, page: int, now_ns: int) -> dict[str, Any]:
    """One page of all tenants, by name."""
    statuses = read_statuses(connection, now_ns)
    last_page = max(1, -(-len(statuses) // PAGE_SIZE))
    page = min(max(page, 1), last_page)
    first = (page - 1) * PAGE_SIZE
    return {
        "session": session,
        "problem": "",
        "rows": [_row(status) for status in statuses[first : first + PAGE_SIZE]],
        "num_tenants": len(statuses),
        "page": page,
        "last_page": last_page,
    }


def tenant_page(
    connection: sqlite3.Connection,
    session: Session,
    name: str,
    model_names: Callable[[], Mapping[str, str]],
    now_ns: int,
) -> dict[str, Any] | None:
    """One tenant with its use of the last `NUM_DAYS` days; None if there is no such tenant.

    `model_names` returns the models of known engines by hash.
    """
    statuses = read_statuses(connection, now_ns, name)
    if not statuses:
        return None
    today = day_of(now_ns)
    first = today - NUM_DAYS + 1
    period = Period(first * NS_PER_DAY, (today + 1) * NS_PER_DAY)
    by_day = make_usage(connection, "day", period, name)
    values = {"tenant": name, "first": first, "today": today}
    return {
        "session": session,
        "row": _row(statuses[0]),
        "limits": _limit_rows(statuses[0]),
        "chart": make_chart(dict(by_day.groups), date_of(today)),
        "total": by_day.total,
        "num_days": NUM_DAYS,
        "tables": {title: _most_expensive(connection, by, period, name) for by, title in _USAGE_TABLES.items()},
        "refusals": connection.execute(_REFUSALS, values).fetchall(),
        "model_names": model_names(),
    }


def _row(status: TenantStatus) -> TenantRow:
    keys = {state: sum(key.state == state for key in status.keys) for state in KEY_STATES}
    return TenantRow(status, budget_uses(status), sum(status.refusals_today.values()), keys)


def _limit_rows(status: TenantStatus) -> list[LimitRow]:
    limits, minute = status.limits, status.last_minute
    return [
        LimitRow("requests in flight", status.num_requests_in_flight, limits.max_concurrent_requests),
        LimitRow("requests within a minute", minute.num_requests, limits.max_requests_per_minute),
        LimitRow("tokens within a minute", minute.num_tokens, limits.max_tokens_per_minute),
        LimitRow("new guides within a minute", minute.num_adhoc_guides, limits.max_adhoc_guides_per_minute),
    ]


def _most_expensive(connection: sqlite3.Connection, by: str, period: Period, tenant: str) -> UsageReport:
    """The groups of the highest cost, those first."""
    report = make_usage(connection, by, period, tenant, MAX_GROUPS)
    return report._replace(groups=sorted(report.groups, key=lambda group: (-group[1].nano_usd, group[0])))
