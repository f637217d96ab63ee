"""What registered tenants have spent, have reserved and have sent lately, changed in the transaction of each row.

A row of a tenant reserves its worst case when it is admitted. Its reservation ends when the row is closed, in whatever
state, and what it really used takes its place. So `spent + reserved` is never more than a budget, whatever the order in
which processes write, stop or die.

The row belongs to the day on which it was admitted. Rates count the rows admitted in the last 60 seconds, kept by
second: the oldest second counts whole, so no 60 seconds see more than the limit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from llm_policy.errors import Code
from llm_policy.ledger.budget_alert import BudgetUse, report_use
from llm_policy.ledger.budget_window import BudgetWindow, day_of, windows_of
from llm_policy.ledger.row_record import RowRecord
from llm_policy.ledger.tenant import TenantLimits, read_limits
from llm_policy.pricing import usd

TABLES = """
CREATE TABLE IF NOT EXISTS reservation (    -- of the open rows
    ledger_id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    admitted_ns INTEGER NOT NULL,
    num_tokens INTEGER NOT NULL,
    nano_usd INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS tenant_day (
    tenant TEXT NOT NULL,
    day INTEGER NOT NULL,           -- days since 1970
    spent_nano_usd INTEGER NOT NULL,
    reserved_nano_usd INTEGER NOT NULL,
    PRIMARY KEY (tenant, day)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tenant_second (
    tenant TEXT NOT NULL,
    second INTEGER NOT NULL,        -- Unix time
    num_requests INTEGER NOT NULL,
    num_tokens INTEGER NOT NULL,    -- of prompts and completions; reserved ones until the row is closed
    num_guides INTEGER NOT NULL,    -- new guides of clients
    PRIMARY KEY (tenant, second)
) WITHOUT ROWID;
"""

WINDOW_S = 60
_NS_PER_S = 1_000_000_000

_RESERVE = "INSERT INTO reservation (ledger_id, tenant, admitted_ns, num_tokens, nano_usd) VALUES (?, ?, ?, ?, ?)"
_END = "DELETE FROM reservation WHERE ledger_id = ? RETURNING tenant, admitted_ns, num_tokens, nano_usd"
_ADD_TO_DAY = (
    "INSERT INTO tenant_day (tenant, day, spent_nano_usd, reserved_nano_usd) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (tenant, day) DO UPDATE SET spent_nano_usd = spent_nano_usd + excluded.spent_nano_usd, "
    "reserved_nano_usd = reserved_nano_usd + excluded.reserved_nano_usd"
)
_ADD_TO_SECOND = (
    "INSERT INTO tenant_second (tenant, second, num_requests, num_tokens, num_guides) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (tenant, second) DO UPDATE SET num_requests = num_requests + excluded.num_requests, "
    "num_tokens = num_tokens + excluded.num_tokens, num_guides = num_guides + excluded.num_guides"
)
_CORRECT_SECOND = "UPDATE tenant_second SET num_tokens = num_tokens - ? WHERE tenant = ? AND second = ?"
# Sums are computed in SQL: reading the seconds of a window into Python takes three times as long.
_SUM_OF_DAYS = (
    "SELECT coalesce(sum(spent_nano_usd), 0), coalesce(sum(reserved_nano_usd), 0) FROM tenant_day "
    "WHERE tenant = ? AND day >= ? AND day < ?"
)
# The clock may have been set back: seconds that lie ahead by more than a window don't count.
_OF_WINDOW = "FROM tenant_second WHERE tenant = ? AND second BETWEEN ? AND ?"
_SUM_OF_SECONDS = f"SELECT sum(num_requests), sum(num_tokens), sum(num_guides) {_OF_WINDOW}"
_SECONDS = f"SELECT second, num_requests, num_tokens, num_guides {_OF_WINDOW} ORDER BY second"
_HAS_OLD_SECONDS = "SELECT EXISTS (SELECT 1 FROM tenant_second WHERE second < ?)"
_DELETE_SECONDS = "DELETE FROM tenant_second WHERE second < ?"


class Need(NamedTuple):
    """What a request of one or several rows reserves, at most."""

    num_tokens: int = 0
    num_completion_tokens: int = 0
    nano_usd: int = 0
    num_guides: int = 0

    @classmethod
    def of(cls, rows: Sequence[RowRecord]) -> Need:
        """The need of a request with these rows."""
        return cls(
            sum(reserved_tokens(row) for row in rows),
            sum(row.max_completion_tokens for row in rows),
            sum(row.projected_nano_usd for row in rows),
            sum(row.is_new_guide for row in rows),
        )


class Refusal(NamedTuple):
    """Why a request is refused."""

    code: Code
    detail: str
    budget: BudgetUse | None = None
    """The budget that it does not fit into, if that is why."""
    depends_on_queue: bool = False
    """Whether requests that wait are why: some of them may be dead."""


def reserved_tokens(row: RowRecord) -> int:
    """The tokens that a row may use."""
    return row.num_prompt_tokens + row.max_completion_tokens


class TenantAccounts:
    """The accounts as one process changes them. They run in the caller's transaction; `refusal` needs none."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def refusal(self, tenant: str, need: Need, num_running: int, now_ns: int) -> Refusal | None:
        """Why a request of this need is refused while `num_running` others of the tenant run; None if it may run."""
        limits = read_limits(self._connection, tenant)
        if limits.max_concurrent_requests is not None and num_running >= limits.max_concurrent_requests:
            return Refusal(
                Code.RATE_LIMITED,
                f"{num_running} requests of tenant {tenant} wait for their answers, limit "
                f"{limits.max_concurrent_requests} (max_concurrent_requests); try again in 1 s",
                depends_on_queue=True,
            )
        return self._rate_refusal(tenant, limits, need, now_ns) or self._budget_refusal(tenant, limits, need, now_ns)

    def report(self, tenant: str, refusal: Refusal, now_ns: int) -> None:
        """Append the event of a budget that a request did not fit into."""
        if refusal.budget is not None:
            report_use(self._connection, tenant, refusal.budget, now_ns, is_refused=True)

    def reserve(self, row: RowRecord, now_ns: int) -> None:
        """Reserve what an admitted row may use; `row` has its ledger id."""
        num_tokens = reserved_tokens(row)
        execute = self._connection.execute
        execute(_RESERVE, (row.ledger_id, row.tenant, now_ns, num_tokens, row.projected_nano_usd))
        execute(_ADD_TO_DAY, (row.tenant, day_of(now_ns), 0, row.projected_nano_usd))
        is_first = row.row_number == 0
        execute(_ADD_TO_SECOND, (row.tenant, now_ns // _NS_PER_S, is_first, num_tokens, row.is_new_guide))

    def close(self, ledger_id: int | None, num_tokens: int, nano_usd: int, now_ns: int) -> None:
        """Replace a row's reservation with what it used; nothing happens to a row without one."""
        ended = self._connection.execute(_END, (ledger_id,)).fetchone()
        if ended is None:
            return
        tenant, admitted_ns, num_reserved, reserved_nano_usd = ended
        self._connection.execute(_ADD_TO_DAY, (tenant, day_of(admitted_ns), nano_usd, -reserved_nano_usd))
        self._connection.execute(_CORRECT_SECOND, (num_reserved - num_tokens, tenant, admitted_ns // _NS_PER_S))
        if nano_usd:
            self._report(tenant, admitted_ns, now_ns)

    def spend_late(self, tenant: str, admitted_ns: int, nano_usd: int, now_ns: int) -> bool:
        """Spend more for a row whose reservation has ended; False, and nothing happens, if a budget has no room."""
        day = day_of(admitted_ns)
        if any(use.left < nano_usd for use in self._uses(tenant, read_limits(self._connection, tenant), day)):
            return False
        self._connection.execute(_ADD_TO_DAY, (tenant, day, nano_usd, 0))
        self._report(tenant, admitted_ns, now_ns)
        return True

    def _rate_refusal(self, tenant: str, limits: TenantLimits, need: Need, now_ns: int) -> Refusal | None:
        wanted = {
            "max_requests_per_minute": (limits.max_requests_per_minute, 1, "requests"),
            "max_tokens_per_minute": (limits.max_tokens_per_minute, need.num_tokens, "tokens"),
            "max_adhoc_guides_per_minute": (limits.max_adhoc_guides_per_minute, need.num_guides, "new guides"),
        }
        if all(limit is None for limit, _, _ in wanted.values()):
            return None
        now_s = now_ns // _NS_PER_S
        window = (tenant, now_s - WINDOW_S, now_s + WINDOW_S)
        all_used = self._connection.execute(_SUM_OF_SECONDS, window).fetchone()
        for column, ((name, (limit, number, what)), sum_used) in enumerate(zip(wanted.items(), all_used, strict=True)):
            if limit is None or not number:
                continue
            if number > limit:
                return Refusal(
                    Code.TENANT_FORBIDDEN,
                    f"the request may need {number} {what}, limit {limit} ({name} of tenant {tenant})",
                )
            used = sum_used or 0
            if used + number > limit:
                seconds = [(row[0], row[column + 1]) for row in self._connection.execute(_SECONDS, window)]
                wait_s = _wait_s(seconds, used + number - limit, now_s)
                return Refusal(
                    Code.RATE_LIMITED,
                    f"tenant {tenant} used {used} {what} within a minute and the request needs {number}, limit {limit} "
                    f"({name}); try again in {wait_s} s",
                )
        return None

    def _budget_refusal(self, tenant: str, limits: TenantLimits, need: Need, now_ns: int) -> Refusal | None:
        for use in self._uses(tenant, limits, day_of(now_ns)):
            if use.left < need.nano_usd:
                return Refusal(
                    Code.TENANT_BUDGET_OVERRUN,
                    f"the request may cost ${usd(need.nano_usd):.9f}, but tenant {tenant} has spent "
                    f"${usd(use.spent):.9f} and reserved ${usd(use.reserved):.9f} of ${usd(use.limit):.9f} "
                    f"(max_usd_per_{use.window.name}); the {use.window.name} ends at {use.window.ends_at}",
                    use,
                )
        return None

    def _uses(self, tenant: str, limits: TenantLimits, day: int) -> list[BudgetUse]:
        """The use of each budget that has a limit."""
        budgets = (limits.max_nano_usd_per_day, limits.max_nano_usd_per_month)
        uses = []
        for window, limit in zip(windows_of(day), budgets, strict=True):
            if limit is not None:
                uses.append(BudgetUse(window, limit, *read_spending(self._connection, tenant, window)))
        return uses

    def _report(self, tenant: str, admitted_ns: int, now_ns: int) -> None:
        for use in self._uses(tenant, read_limits(self._connection, tenant), day_of(admitted_ns)):
            report_use(self._connection, tenant, use, now_ns)


def read_spending(connection: sqlite3.Connection, tenant: str, window: BudgetWindow) -> tuple[int, int]:
    """The nano-dollars that a tenant has spent and has reserved in a window."""
    spent, reserved = connection.execute(_SUM_OF_DAYS, (tenant, window.first, window.end)).fetchone()
    return int(spent), int(reserved)


def has_old_seconds(connection: sqlite3.Connection, now_ns: int) -> bool:
    """Whether `delete_old_seconds` would delete one; saves the caller an empty transaction."""
    (found,) = connection.execute(_HAS_OLD_SECONDS, (_oldest_second(now_ns),)).fetchone()
    return bool(found)


def delete_old_seconds(connection: sqlite3.Connection, now_ns: int) -> None:
    """Delete what no rate counts any more, in the caller's transaction."""
    connection.execute(_DELETE_SECONDS, (_oldest_second(now_ns),))


def _oldest_second(now_ns: int) -> int:
    return now_ns // _NS_PER_S - 2 * WINDOW_S


def _wait_s(seconds: list[tuple[int, int]], excess: int, now_s: int) -> int:
    """The seconds until `excess` has left the window. `seconds` are those with their numbers, oldest first."""
    for second, number in seconds:
        excess -= number
        if excess <= 0:
            return max(1, second + WINDOW_S + 1 - now_s)
    return WINDOW_S
