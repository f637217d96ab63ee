"""Events for the finance webhook: a tenant has spent most of a budget, or is refused because of it.

Each event is sent once for a window, a share and a limit: a raised limit can be reached again.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from llm_policy.ledger.budget_window import BudgetWindow, date_of
from llm_policy.ledger.outbox import FINANCE, append, new_event
from llm_policy.pricing import usd

EVENT_TYPE = "llm_budget_alert"
WARNING_PERCENT, FULL_PERCENT = 80, 100

TABLES = """
CREATE TABLE IF NOT EXISTS budget_alert (   -- the events that were sent
    tenant TEXT NOT NULL,
    budget TEXT NOT NULL,           -- day or month
    first_day INTEGER NOT NULL,     -- of the window, in days since 1970
    percent INTEGER NOT NULL,
    limit_nano_usd INTEGER NOT NULL,
    PRIMARY KEY (tenant, budget, first_day, percent, limit_nano_usd)
) WITHOUT ROWID;
"""


class BudgetUse(NamedTuple):
    """How much of one budget is used in a window, in nano-dollars: spent by closed rows, reserved for open ones."""

    window: BudgetWindow
    limit: int
    spent: int
    reserved: int

    @property
    def left(self) -> int:
        """What a new request may reserve."""
        return self.limit - self.spent - self.reserved

    @property
    def unreported(self) -> int:
        """What may be spent in addition, reservations included, without an event being due; negative: one is due."""
        return -(-WARNING_PERCENT * self.limit // 100) - 1 - self.spent - self.reserved

    @property
    def spent_percent(self) -> int:
        """The share that is spent, rounded down."""
        return 100 * self.spent // self.limit if self.limit else FULL_PERCENT


def report_use(
    connection: sqlite3.Connection, tenant: str, use: BudgetUse, now_ns: int, *, is_refused: bool = False
) -> None:
    """Append the events that are due, in the caller's transaction. `is_refused`: a request does not fit any more."""
    if is_refused or use.spent_percent >= FULL_PERCENT:
        _report_once(connection, tenant, use, FULL_PERCENT, now_ns)
    elif use.spent_percent >= WARNING_PERCENT:
        _report_once(connection, tenant, use, WARNING_PERCENT, now_ns)


def _report_once(connection: sqlite3.Connection, tenant: str, use: BudgetUse, percent: int, now_ns: int) -> None:
    key = (tenant, use.window.name, use.window.first, percent, use.limit)
    if not connection.execute("INSERT OR IGNORE INTO budget_alert VALUES (?, ?, ?, ?, ?)", key).rowcount:
        return
    data = {
        "tenant": tenant,
        "budget": use.window.name,
        "percent": percent,
        "limit_usd": usd(use.limit),
        "spent_usd": usd(use.spent),
        "reserved_usd": usd(use.reserved),
        "window_start": f"{date_of(use.window.first)}T00:00:00Z",
        "window_end": use.window.ends_at,
    }
    append(connection, new_event(EVENT_TYPE, data, now_ns, subject=tenant), [FINANCE])
