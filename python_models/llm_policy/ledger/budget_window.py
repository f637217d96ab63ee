"""The windows of budgets: UTC days and months, as numbers of days since 1970."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from typing import NamedTuple

NS_PER_DAY = 86_400_000_000_000
_EPOCH = date(1970, 1, 1)
DAY, MONTH = "day", "month"


class BudgetWindow(NamedTuple):
    """The days `first` to `end`, without `end`."""

    name: str
    first: int
    end: int

    @property
    def ends_at(self) -> str:
        """The end in RFC 3339."""
        return datetime.combine(date_of(self.end), time(), timezone.utc).isoformat().replace("+00:00", "Z")


def day_of(time_ns: int) -> int:
    """The day of a Unix time."""
    return time_ns // NS_PER_DAY


def date_of(day: int) -> date:
    """The calendar date of a day."""
    return _EPOCH + timedelta(days=day)


@lru_cache(64)
def windows_of(day: int) -> tuple[BudgetWindow, BudgetWindow]:
    """The day's own window and its month's."""
    first = date_of(day).replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    return (
        BudgetWindow(DAY, day, day + 1),
        BudgetWindow(MONTH, (first - _EPOCH).days, (following - _EPOCH).days),
    )
