"""A bar chart of a tenant's cost by UTC day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import NamedTuple

from llmstack.tenants.usage_report import UsageSums

NUM_DAYS = 30
DAYS_PER_LABEL = 5
_STEPS = (1, 2, 4, 6, 8, 10)  # each has a half, and each is at most twice the one before
_NO_USE = UsageSums()


class Bar(NamedTuple):
    """One day. Positions and sizes are percentages of the chart's size."""

    day: date
    sums: UsageSums
    x: float
    y: float
    width: float
    height: float


class CostChart(NamedTuple):
    """The bars, oldest day first; the value at the top of the axis, in nano-dollars; the days that have labels."""

    bars: tuple[Bar, ...]
    top_nano_usd: int
    labels: tuple[date, ...]


def make_chart(usage: Mapping[str, UsageSums], today: date) -> CostChart:
    """The chart of the last `NUM_DAYS` days; `usage` has the sums of days in ISO 8601."""
    days = [today - timedelta(days=NUM_DAYS - 1 - number) for number in range(NUM_DAYS)]
    sums = [usage.get(day.isoformat(), _NO_USE) for day in days]
    top, width = axis_top(max(each.nano_usd for each in sums)), 100 / NUM_DAYS
    bars = []
    for number, (day, each) in enumerate(zip(days, sums, strict=True)):
        height = round(100 * each.nano_usd / top, 3)
        bars.append(
            Bar(day, each, round(number * width + 0.3, 3), round(100 - height, 3), round(width - 0.6, 3), height)
        )
    return CostChart(tuple(bars), top, tuple(days[::DAYS_PER_LABEL]))


def axis_top(highest: int) -> int:
    """The smallest round number of nano-dollars that is at least `highest`."""
    power = 10
    while 10 * power < highest:
        power *= 10
    return next(step * power for step in _STEPS if step * power >= highest)
