"""The bounds of a range of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from math import ceil, floor

MAX_BOUND_DIGITS = 40
"""Most digits before or after the point of a bound that a grammar enforces; a longer bound is reported."""


@dataclass(frozen=True)
class Bounds:
    """A range of numbers; None is no bound, `open_*` excludes the bound itself."""

    low: Decimal | None = None
    high: Decimal | None = None
    open_low: bool = False
    open_high: bool = False

    def with_low(self, value: Decimal, *, exclusive: bool) -> Bounds:
        """The range restricted by a minimum."""
        if self.low is not None and (value, exclusive) <= (self.low, self.open_low):
            return self
        return Bounds(value, self.high, exclusive, self.open_high)

    def with_high(self, value: Decimal, *, exclusive: bool) -> Bounds:
        """The range restricted by a maximum."""
        if self.high is not None and (-value, exclusive) <= (-self.high, self.open_high):
            return self
        return Bounds(self.low, value, self.open_low, exclusive)

    def is_empty(self) -> bool:
        """Whether the range contains no number."""
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.open_low or self.open_high))

    def integers(self) -> tuple[int | None, int | None]:
        """The smallest and the largest integer of the range; None without a bound."""
        low = None if self.low is None else ceil(self.low)
        high = None if self.high is None else floor(self.high)
        low = low + 1 if low is not None and self.open_low and low == self.low else low
        high = high - 1 if high is not None and self.open_high and high == self.high else high
        return low, high


def decimal(value: int | float) -> Decimal:
    """The decimal value of the number's shortest text."""
    return Decimal(repr(value) if isinstance(value, float) else value)


def is_enforceable(value: Decimal) -> bool:
    """Whether the bound is short enough for a grammar."""
    digits = f"{value:f}".lstrip("-")
    whole, _, fraction = digits.partition(".")
    return max(len(whole), len(fraction)) <= MAX_BOUND_DIGITS
