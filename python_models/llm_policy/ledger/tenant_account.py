"""What registered tenants have spent, have reserved and have sent lately, changed in the transaction of each row.

A row of a tenant reserves its worst case when it is admitted (the view `reservation`). Its reservation ends when the
row is closed, in whatever state, and what it really used takes its place. So `spent + reserved` is never more than a
budget, whatever the order in which processes write, stop or die.

The row belongs to the day on which it was admitted. Rates count the rows admitted in the last 60 seconds, kept by
second: the oldest second counts whole, so no 60 seconds see more than the limit.

To sum up a month for each row is most of the work, and rarely needed: `tenant_day.safe_nano_usd` is what the day may
have spent and reserved without any budget being exceeded and any event being due. It holds as long as no other day of
the month gets more and the limits stay. So it is set together with a reservation, for one day of a month at a time;
whatever else adds to a day, or changes the limits, makes it NULL, and then the sums decide.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from llm_policy.errors import Code
from llm_policy.ledger.budget_alert import BudgetUse, report_use
from llm_policy.ledger.budget_window import BudgetWindow, day_of, windows_of
from llm_policy.ledger.row_record import RowRecord
from llm_policy.ledger.tenant import TenantLimits, parse_limits, read_limits
from llm_policy.pricing import usd

TABLES = """
CREATE TABLE IF NOT EXISTS tenant_day (
    tenant TEXT NOT NULL,
    day INTEGER NOT NULL,           -- days since 1970
    spent_nano_usd INTEGER NOT NULL,
    reserved_nano_usd INTEGER NOT NULL,
    safe_nano_usd INTEGER,
    PRIMARY KEY (tenant, day)
) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS tenant_added AFTER INSERT ON tenant
    BEGIN UPDATE tenant_day SET safe_nano_usd = NULL WHERE tenant = NEW.name; END;
CREATE TRIGGER IF NOT EXISTS tenant_limits_changed AFTER UPDATE OF limits ON tenant
    BEGIN UPDATE tenant_day SET safe_nano_usd = NULL WHERE tenant = NEW.name; END;
CREATE TABLE IF NOT EXISTS tenant_second (
    tenant TEXT NOT NULL,
    second INTEGER NOT NULL,        -- Unix time
    num_requests INTEGER NOT NULL,
    num_tokens INTEGER NOT NULL,    -- of prompts and completions; reserved ones until the row is closed
    num_guides INTEGER NOT NULL,    -- new guides of clients
    PRIMARY KEY (tenant, second)
) WITHOUT ROWID;
CREATE VIEW IF NOT EXISTS reservation AS    -- of the open rows
    SELECT id AS ledger_id, tenant, admitted_ns, reserved_tokens AS num_tokens, projected_nano_usd AS nano_usd
    FROM request INDEXED BY request_open WHERE state = 'admitted' AND reserved_tokens IS NOT NULL;
"""

WINDOW_S = 60
_NS_PER_S = 1_000_000_000

_MAX_SAFE_NANO_USD = 2**63 - 1
_READ = (
    "SELECT limits, spent_nano_usd + reserved_nano_usd, safe_nano_usd FROM tenant "
    "LEFT JOIN tenant_day ON tenant = name AND day = ? WHERE name = ?"
)
_RESERVE = (
    "INSERT INTO tenant_day (tenant, day, spent_nano_usd, reserved_nano_usd, safe_nano_usd) VALUES (?, ?, 0, ?, ?) "
    "ON CONFLICT (tenant, day) DO UPDATE SET reserved_nano_usd = reserved_nano_usd + excluded.reserved_nano_usd, "
    "safe_nano_usd = excluded.safe_nano_usd"
)
_ADD_SAFELY = (
    "UPDATE tenant_day SET spent_nano_usd = spent_nano_usd + ?, reserved_nano_usd = reserved_nano_usd + ? "
    "WHERE tenant = ? AND day = ? AND spent_nano_usd + reserved_nano_usd + ? <= safe_nano_usd"
)
_ADD = (
    "INSERT INTO tenant_day (tenant, day, spent_nano_usd, reserved_nano_usd) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (tenant, day) DO UPDATE SET spent_nano_usd = spent_nano_usd + excluded.spent_nano_usd, "
    "reserved_nano_usd = reserved_nano_usd + excluded.reserved_nano_usd"
)
_FORGET_SAFE = (
    "UPDATE tenant_day SET safe_nano_usd = NULL WHERE tenant = ? AND day >= ? AND day < ? AND safe_nano_usd IS NOT NULL"
)
_ADD_TO_SECOND = (
    "INSERT INTO tenant_second (tenant, second, num_requests, num_tokens, num_guides) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (tenant, second) DO UPDATE SET num_requests = num_requests + excluded.num_requests, "
    "num_tokens = num_tokens + excluded.num_tokens, num_guides = num_guides + excluded.num_guides"
)
# A second that no rate counts any more is deleted, and must not come back.
_CORRECT_SECOND = "UPDATE tenant_second SET num_tokens = num_tokens + ? WHERE tenant = ? AND second = ?"
# Sums are computed in SQL: reading the rows of a window into Python takes three times as long.
_SUM_OF_DAYS = (
    "SELECT coalesce(sum(spent_nano_usd), 0), coalesce(sum(reserved_nano_usd), 0) FROM tenant_day "
    "WHERE tenant = ? AND day >= ? AND day < ?"
)
_SUM_OF_DAY_AND_WINDOW = (
    "SELECT sum(spent_nano_usd) FILTER (WHERE day = ?2), sum(reserved_nano_usd) FILTER (WHERE day = ?2), "
    "sum(spent_nano_usd), sum(reserved_nano_usd) FROM tenant_day WHERE tenant = ?1 AND day >= ?3 AND day < ?4"
)
# The clock may have been set back: seconds that lie ahead by more than a window don't count.
_OF_WINDOW = "FROM tenant_second WHERE tenant = ? AND second BETWEEN ? AND ?"
_SUM_OF_SECONDS = f"SELECT sum(num_requests), sum(num_tokens), sum(num_guides) {_OF_WINDOW}"
_SECONDS = f"SELECT second, num_requests, num_tokens, num_guides {_OF_WINDOW} ORDER BY second"
_HAS_OLD_SECONDS = "SELECT EXISTS (SELECT 1 FROM tenant_second WHERE second < ?)"
_DELETE_SECONDS = "DELETE FROM tenant_second WHERE second < ?"
_RATES = (
    ("max_requests_per_minute", "requests"),
    ("max_tokens_per_minute", "tokens"),
    ("max_adhoc_guides_per_minute", "new guides"),
)


class Need(NamedTuple):
    """What a request of one or several rows reserves, at most."""

    num_tokens: int = 0
    num_completion_tokens: int = 0
    nano_usd: int = 0
    num_guides: int = 0

    @classmethod
    def of(cls, rows: Sequence[RowRecord]) -> Need:
        """The need of a request with these rows."""
        num_tokens = num_completion_tokens = nano_usd = num_guides = 0
        for row in rows:
            num_tokens += reserved_tokens(row)
            num_completion_tokens += row.max_completion_tokens
            nano_usd += row.projected_nano_usd
            num_guides += row.is_new_guide
        return cls(num_tokens, num_completion_tokens, nano_usd, num_guides)


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


class TenantAccount:
    """One tenant's account as one transaction sees it: read when it is needed, written by `save`.

    `refusal` alone needs no transaction.
    """

    def __init__(self, connection: sqlite3.Connection, tenant: str, now_ns: int) -> None:
        self._connection = connection
        self._tenant = tenant
        self._now_ns = now_ns
        # Read once, by `_read`: the limits, what today has spent and reserved, and its `safe_nano_usd`.
        self._limits: TenantLimits | None = None
        self._today_nano_usd = 0
        self._safe_nano_usd: int | None = None
        self._uses: list[BudgetUse] | None = None  # of today's budgets
        self._minute: list[int] | None = None  # requests, tokens and guides of the last minute
        # Not saved yet: what this transaction reserves now, and what it closes of each day and second.
        self._reserved = [0, 0, 0, 0]  # requests, tokens, guides, nano-dollars
        self._closed_days: dict[int, list[int]] = {}
        self._closed_seconds: dict[int, int] = {}

    def refusal(self, need: Need, num_running: int) -> Refusal | None:
        """Why a request of this need is refused while `num_running` others of the tenant run; None if it may run."""
        limits = self._limits or self._read()
        max_running = limits.max_concurrent_requests
        if max_running is not None and num_running >= max_running:
            return Refusal(
                Code.RATE_LIMITED,
                f"{num_running} requests of tenant {self._tenant} wait for their answers, limit "
                f"{max_running} (max_concurrent_requests); try again in 1 s",
                depends_on_queue=True,
            )
        return self._rate_refusal(limits, need) or self._budget_refusal(limits, need)

    def report(self, refusal: Refusal) -> None:
        """Append the event of a budget that a request did not fit into."""
        if refusal.budget is not None:
            report_use(self._connection, self._tenant, refusal.budget, self._now_ns, is_refused=True)

    def reserve(self, need: Need) -> None:
        """Reserve what an admitted request may use."""
        reserved = self._reserved
        reserved[0] += 1
        reserved[1] += need.num_tokens
        reserved[2] += need.num_guides
        reserved[3] += need.nano_usd

    def close(self, admitted_ns: int, reserved: tuple[int, int], used: tuple[int, int]) -> None:
        """Replace what a row reserved with what it used: tokens and nano-dollars."""
        self._add_to_day(day_of(admitted_ns), used[1], -reserved[1])
        second = admitted_ns // _NS_PER_S
        self._closed_seconds[second] = self._closed_seconds.get(second, 0) + used[0] - reserved[0]

    def spend_late(self, admitted_ns: int, nano_usd: int) -> bool:
        """Spend more for a row whose reservation has ended; False, and nothing happens, if a budget has no room."""
        self.save()
        day = day_of(admitted_ns)
        limits = read_limits(self._connection, self._tenant)
        if any(use.left < nano_usd for use in read_uses(self._connection, self._tenant, limits, day)):
            return False
        self._add_to_day(day, nano_usd, 0)
        return True

    def save(self) -> None:
        """Write what was reserved and closed, and append the events of budgets that are due."""
        if self._reserved[0]:
            self._save_reserved()
        for second, num_tokens in self._closed_seconds.items():
            if num_tokens:
                self._connection.execute(_CORRECT_SECOND, (num_tokens, self._tenant, second))
        for day, (spent, reserved) in self._closed_days.items():
            values = (spent, reserved, self._tenant, day, spent + reserved)
            if not self._connection.execute(_ADD_SAFELY, values).rowcount:
                self._add_beyond_safe(day, spent, reserved)
        self._closed_seconds, self._closed_days = {}, {}

    def _read(self) -> TenantLimits:
        found = self._connection.execute(_READ, (day_of(self._now_ns), self._tenant)).fetchone()
        if found is None:
            self._limits = TenantLimits()
        else:
            text, today_nano_usd, self._safe_nano_usd = found
            self._limits = parse_limits(text)
            self._today_nano_usd = today_nano_usd or 0
        return self._limits

    def _save_reserved(self) -> None:
        limits = self._limits or self._read()
        day = day_of(self._now_ns)
        *sent, nano_usd = self._reserved
        if not self._is_safe(nano_usd):
            # Uses are those before this transaction, as is what today spent and reserved then.
            unreported = min((use.unreported for use in self._uses_today(limits)), default=_MAX_SAFE_NANO_USD)
            if self._safe_nano_usd is None:
                self._forget_safe(day)
            self._safe_nano_usd = min(self._today_nano_usd + unreported, _MAX_SAFE_NANO_USD)
        self._connection.execute(_RESERVE, (self._tenant, day, nano_usd, self._safe_nano_usd))
        self._connection.execute(_ADD_TO_SECOND, (self._tenant, self._now_ns // _NS_PER_S, *sent))
        self._reserved = [0, 0, 0, 0]
        self._limits = self._uses = self._minute = None

    def _is_safe(self, nano_usd: int) -> bool:
        return self._safe_nano_usd is not None and self._today_nano_usd + nano_usd <= self._safe_nano_usd

    def _add_beyond_safe(self, day: int, spent: int, reserved: int) -> None:
        self._connection.execute(_ADD, (self._tenant, day, spent, reserved))
        if spent + reserved > 0:
            self._forget_safe(day)
        if spent:
            limits = read_limits(self._connection, self._tenant)
            for use in read_uses(self._connection, self._tenant, limits, day):
                report_use(self._connection, self._tenant, use, self._now_ns)

    def _forget_safe(self, day: int) -> None:
        month = windows_of(day)[1]
        self._connection.execute(_FORGET_SAFE, (self._tenant, month.first, month.end))

    def _add_to_day(self, day: int, spent_nano_usd: int, reserved_nano_usd: int) -> None:
        sums = self._closed_days.setdefault(day, [0, 0])
        sums[0] += spent_nano_usd
        sums[1] += reserved_nano_usd

    def _rate_refusal(self, limits: TenantLimits, need: Need) -> Refusal | None:
        rates = (limits.max_requests_per_minute, limits.max_tokens_per_minute, limits.max_adhoc_guides_per_minute)
        if rates == (None, None, None):
            return None
        if self._minute is None:
            all_used = self._connection.execute(_SUM_OF_SECONDS, self._window()).fetchone()
            self._minute = [used or 0 for used in all_used]
        for column, (limit, number) in enumerate(zip(rates, (1, need.num_tokens, need.num_guides), strict=True)):
            if limit is not None and number:
                used = self._minute[column] + self._reserved[column]
                if used + number > limit:
                    return self._refusal_of_rate(column, limit, used, number)
        return None

    def _refusal_of_rate(self, column: int, limit: int, used: int, number: int) -> Refusal:
        name, what = _RATES[column]
        if number > limit:
            return Refusal(
                Code.TENANT_FORBIDDEN,
                f"the request may need {number} {what}, limit {limit} ({name} of tenant {self._tenant})",
            )
        now_s = self._now_ns // _NS_PER_S
        sent = self._connection.execute(_SECONDS, self._window())
        seconds = Counter({second: numbers[column] for second, *numbers in sent})
        seconds[now_s] += self._reserved[column]
        wait_s = _wait_s(sorted(seconds.items()), used + number - limit, now_s)
        return Refusal(
            Code.RATE_LIMITED,
            f"tenant {self._tenant} used {used} {what} within a minute and the request needs {number}, limit {limit} "
            f"({name}); try again in {wait_s} s",
        )

    def _window(self) -> tuple[str, int, int]:
        now_s = self._now_ns // _NS_PER_S
        return self._tenant, now_s - WINDOW_S, now_s + WINDOW_S

    def _budget_refusal(self, limits: TenantLimits, need: Need) -> Refusal | None:
        unsaved = self._reserved[3]
        if self._is_safe(unsaved + need.nano_usd):
            return None
        for use in self._uses_today(limits):
            if use.left - unsaved < need.nano_usd:
                return self._refusal_of_budget(use._replace(reserved=use.reserved + unsaved), need)
        return None

    def _uses_today(self, limits: TenantLimits) -> list[BudgetUse]:
        if self._uses is None:
            self._uses = read_uses(self._connection, self._tenant, limits, day_of(self._now_ns))
        return self._uses

    def _refusal_of_budget(self, use: BudgetUse, need: Need) -> Refusal:
        return Refusal(
            Code.TENANT_BUDGET_OVERRUN,
            f"the request may cost ${usd(need.nano_usd):.9f}, but tenant {self._tenant} has spent "
            f"${usd(use.spent):.9f} and reserved ${usd(use.reserved):.9f} of ${usd(use.limit):.9f} "
            f"(max_usd_per_{use.window.name}); the {use.window.name} ends at {use.window.ends_at}",
            use,
        )


def read_spending(connection: sqlite3.Connection, tenant: str, window: BudgetWindow) -> tuple[int, int]:
    """The nano-dollars that a tenant has spent and has reserved in a window."""
    spent, reserved = connection.execute(_SUM_OF_DAYS, (tenant, window.first, window.end)).fetchone()
    return int(spent), int(reserved)


def read_uses(connection: sqlite3.Connection, tenant: str, limits: TenantLimits, day: int) -> list[BudgetUse]:
    """The use of each budget that has a limit: of the day, of its month."""
    per_day, per_month = limits.max_nano_usd_per_day, limits.max_nano_usd_per_month
    if per_day is None and per_month is None:
        return []
    day_window, month = windows_of(day)
    summed = day_window if per_month is None else month
    sums = connection.execute(_SUM_OF_DAY_AND_WINDOW, (tenant, day, summed.first, summed.end)).fetchone()
    spent_today, reserved_today, spent, reserved = (number or 0 for number in sums)
    uses = [] if per_day is None else [BudgetUse(day_window, per_day, spent_today, reserved_today)]
    if per_month is not None:
        uses.append(BudgetUse(month, per_month, spent, reserved))
    return uses


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
