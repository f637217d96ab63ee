"""Checks the accounts of tenants: reservations against open rows, days against reservations and usage.

Accounts exist for requests with an API key only. Rows of the time before their tenant was registered have none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from llm_policy.ledger.budget_window import NS_PER_DAY, date_of
from llm_policy.ledger.tenant import parse_limits
from llm_policy.ledger.tenant_account import read_uses
from llmstack.ledger.discrepancy import Discrepancy

# A request that came without a key may be admitted shortly after its tenant was registered.
_REGISTRATION_NS = 10_000_000_000

_WITHOUT_RESERVATION = (
    "SELECT count(*) FROM request JOIN tenant ON name = tenant WHERE state = 'admitted' AND canary = 0 "  # noqa: S608
    f"AND admitted_ns > created_ns + {_REGISTRATION_NS} AND id NOT IN (SELECT ledger_id FROM reservation)"
)
_SAFE = (
    "SELECT tenant, day, safe_nano_usd, spent_nano_usd + reserved_nano_usd, limits FROM tenant_day "
    "JOIN tenant ON name = tenant WHERE safe_nano_usd IS NOT NULL ORDER BY tenant, day"
)
_DIFFERENCE = "GROUP BY tenant, day HAVING sum(in_rows) <> sum(in_totals) ORDER BY tenant, day"
_SUMS = {
    "nano-dollars reserved": (
        "SELECT tenant, day, sum(in_rows), sum(in_totals) FROM "  # noqa: S608 - constants
        f"(SELECT tenant, admitted_ns / {NS_PER_DAY} AS day, nano_usd AS in_rows, 0 AS in_totals FROM reservation "
        f"UNION ALL SELECT tenant, day, 0, reserved_nano_usd FROM tenant_day) {_DIFFERENCE}"
    ),
    "nano-dollars spent": (
        "SELECT tenant, day, sum(in_rows), sum(in_totals) FROM "  # noqa: S608 - constants
        "(SELECT tenant, day, nano_usd AS in_rows, 0 AS in_totals FROM usage_day "
        "UNION ALL SELECT tenant, day, 0, spent_nano_usd FROM tenant_day) "
        f"JOIN tenant ON name = tenant WHERE day > created_ns / {NS_PER_DAY} {_DIFFERENCE}"
    ),
}
_NEVER_NEGATIVE = {
    "request": ("num_prompt_tokens", "num_completion_tokens", "projected_nano_usd", "actual_nano_usd"),
    "metric_total": ("value",),
    "archived_sum": ("value",),
    "rejection_count": ("num_samples", "num_rows"),
    "usage_day": ("num_rows", "num_prompt_tokens", "num_completion_tokens", "nano_usd"),
    "refusal_day": ("num_rows",),
    "reservation": ("num_tokens", "nano_usd"),
    "tenant_day": ("spent_nano_usd", "reserved_nano_usd"),
    "tenant_second": ("num_requests", "num_tokens", "num_guides"),
}


def has_accounts(connection: sqlite3.Connection) -> bool:
    """Whether the ledger has accounts and usage; one that an earlier version wrote has not."""
    return {"tenant", "reservation", "tenant_day", "usage_day"} <= _tables(connection)


def check_accounts(connection: sqlite3.Connection) -> Iterator[Discrepancy]:
    """All checks of a ledger that has accounts."""
    (number,) = connection.execute(_WITHOUT_RESERVATION).fetchone()
    if number:
        yield Discrepancy("open rows of registered tenants without a reservation", number, 0)
    for check, query in _SUMS.items():
        for tenant, day, in_rows, in_totals in connection.execute(query):
            yield Discrepancy(f"{check} by tenant {tenant} on {date_of(day)}", in_rows, in_totals)
    yield from _find_unsafe_days(connection)


def _find_unsafe_days(connection: sqlite3.Connection) -> Iterator[Discrepancy]:
    """Days whose `safe_nano_usd` is more than the budgets allow."""
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(tenant_day)")}
    if "safe_nano_usd" not in columns:  # an earlier version wrote the ledger
        return
    for tenant, day, safe, committed, limits in connection.execute(_SAFE):
        uses = read_uses(connection, tenant, parse_limits(limits), day)
        allowed = min((committed + use.unreported for use in uses), default=safe)
        if safe > allowed:
            yield Discrepancy(f"nano-dollars that are safe for tenant {tenant} on {date_of(day)}", allowed, safe)


def find_negative_values(connection: sqlite3.Connection) -> Iterator[Discrepancy]:
    """Columns with values below 0."""
    existing = _tables(connection)
    for table, columns in _NEVER_NEGATIVE.items():
        if table in existing:
            condition = " OR ".join(f"{column} < 0" for column in columns)
            (number,) = connection.execute(f"SELECT count(*) FROM {table} WHERE {condition}").fetchone()  # noqa: S608
            if number:
                yield Discrepancy(f"rows of {table} with a value below 0", number, 0)


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
