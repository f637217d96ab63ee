"""How much of a budget is used, for the pages of tenants."""

from __future__ import annotations

from typing import NamedTuple

from llm_policy.ledger.budget_alert import FULL_PERCENT, WARNING_PERCENT
from llm_policy.ledger.budget_window import DAY, MONTH
from llmstack.tenants.tenant_status import TenantStatus

OK, NEAR, FULL = "ok", "near", "full"


class BudgetUse(NamedTuple):
    """One budget of a tenant in its current window, in nano-dollars; `limit` is None without one."""

    window: str
    spent: int
    reserved: int
    limit: int | None

    @property
    def spent_percent(self) -> int:
        """The spent share of the limit, rounded down, at most 100."""
        return self._percent(self.spent)

    @property
    def reserved_percent(self) -> int:
        """The reserved share of the limit, in what the spent one leaves."""
        return self._percent(self.spent + self.reserved) - self.spent_percent

    @property
    def level(self) -> str:
        """`full` if nothing is left, `near` from the share on that the finance event reports, else `ok`."""
        if self.limit is not None and self.spent + self.reserved >= self.limit:
            return FULL
        return NEAR if self.limit is not None and self.spent_percent >= WARNING_PERCENT else OK

    def _percent(self, nano_usd: int) -> int:
        if not self.limit:
            return FULL_PERCENT
        return min(FULL_PERCENT, FULL_PERCENT * nano_usd // self.limit)


def budget_uses(status: TenantStatus) -> tuple[BudgetUse, BudgetUse]:
    """The budgets of the day and of the month."""
    money, limits = status.money, status.limits
    return (
        BudgetUse(DAY, money.spent_today, money.reserved_today, limits.max_nano_usd_per_day),
        BudgetUse(MONTH, money.spent_this_month, money.reserved_this_month, limits.max_nano_usd_per_month),
    )
