"""Number ranges as grammar expressions.

A range over decimal digits is a regular language: the digits follow a bound as long as they are equal to it, and are
free once they differ in the allowed direction. Integers are written as digits. A number may also be written with an
exponent, as shortest double-to-text conversions do below 1e-4 and from 1e16 on, where the whole of such a
magnitude lies in the range.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from math import ceil, floor

from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.grammar.grammar import (
    EMPTY,
    NOTHING,
    Chars,
    Expression,
    Grammar,
    Literal,
    Rule,
    choice,
    optional,
    repeat,
    sequence,
)

DIGIT = Chars(CodeSet.of((0x30, 0x39)))
NONZERO = Chars(CodeSet.of((0x31, 0x39)))
_ANY_DIGITS = repeat(DIGIT, 0, None)
_WHOLE = choice(Literal("0"), sequence(NONZERO, _ANY_DIGITS))
_MINUS = Literal("-")

MAX_BOUND_DIGITS = 40
"""A bound of more digits before or after its point is not followed; the report says so."""
MAX_LISTED = 512
"""Multiples inside a range are listed up to this many."""
MAX_MODULUS = 64
"""Largest `multipleOf` that is followed digit by digit (one rule for each remainder)."""


@dataclass(frozen=True)
class Bounds:
    """A range of numbers; None is no bound, `open_*` leaves the bound itself out."""

    low: Decimal | None = None
    high: Decimal | None = None
    open_low: bool = False
    open_high: bool = False

    def with_low(self, value: Decimal, *, exclusive: bool) -> Bounds:
        """The range cut at a minimum."""
        if self.low is not None and (value, exclusive) <= (self.low, self.open_low):
            return self
        return Bounds(value, self.high, exclusive, self.open_high)

    def with_high(self, value: Decimal, *, exclusive: bool) -> Bounds:
        """The range cut at a maximum."""
        if self.high is not None and (-value, exclusive) <= (-self.high, self.open_high):
            return self
        return Bounds(self.low, value, self.open_low, exclusive)

    def is_empty(self) -> bool:
        """No number fits."""
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.open_low or self.open_high))

    def integers(self) -> tuple[int | None, int | None]:
        """The least and the greatest integer of the range."""
        low = None if self.low is None else ceil(self.low)
        high = None if self.high is None else floor(self.high)
        low = low + 1 if low is not None and self.open_low and low == self.low else low
        high = high - 1 if high is not None and self.open_high and high == self.high else high
        return low, high


def decimal(value: int | float) -> Decimal:
    """The number as its shortest text says."""
    return Decimal(repr(value) if isinstance(value, float) else value)


def is_followable(value: Decimal) -> bool:
    """Whether a bound is short enough to be followed digit by digit."""
    digits = f"{value:f}".lstrip("-")
    whole, _, fraction = digits.partition(".")
    return max(len(whole), len(fraction)) <= MAX_BOUND_DIGITS


# Integers


def integer_expression(low: int | None, high: int | None) -> Expression:
    """Integers from low to high, both included, as digits without a leading zero and without `-0`."""
    if low is not None and high is not None and low > high:
        return NOTHING
    options: list[Expression] = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        options.append(sequence(_MINUS, _natural(least, None if low is None else -low)))
    if high is None or high >= 0:
        options.append(_natural(max(low or 0, 0), high))
    return choice(*options)


def integers_without(low: int | None, high: int | None, excluded: list[int]) -> Expression:
    """The integers of a range but for the excluded ones, which are sorted."""
    options: list[Expression] = []
    for value in excluded:
        if (low is None or value >= low) and (high is None or value <= high):
            options.append(integer_expression(low, value - 1))
            low = value + 1
    options.append(integer_expression(low, high))
    return _choices(*options)


def _natural(low: int, high: int | None) -> Expression:
    """Integers from low ≥ 0 to high."""
    if high is None:
        return _natural_from(low)
    bottom, top = str(low), str(high)
    if len(bottom) == len(top):
        return _between(bottom, top)
    options = [_between(bottom, "9" * len(bottom))]
    if len(top) - len(bottom) > 1:
        options.append(sequence(NONZERO, repeat(DIGIT, len(bottom), len(top) - 2)))
    options.append(_between("1" + "0" * (len(top) - 1), top))
    return choice(*options)


def _natural_from(low: int) -> Expression:
    if low == 0:
        return _WHOLE
    bottom = str(low)
    if low == 1:
        return sequence(NONZERO, _ANY_DIGITS)
    longer = sequence(NONZERO, repeat(DIGIT, len(bottom), None))
    return choice(_between(bottom, "9" * len(bottom)), longer)


def _between(low: str, high: str) -> Expression:
    """Digit strings of one length from low to high."""
    if not low:
        return EMPTY
    if low[0] == high[0]:
        return sequence(Literal(low[0]), _between(low[1:], high[1:]))
    rest = len(low) - 1
    first, last = int(low[0]), int(high[0])
    options: list[Expression] = []
    if low[1:] != "0" * rest:
        options.append(sequence(Literal(low[0]), _between(low[1:], "9" * rest)))
        first += 1
    at_top = None
    if high[1:] != "9" * rest:
        at_top = sequence(Literal(high[0]), _between("0" * rest, high[1:]))
        last -= 1
    if first <= last:
        options.append(sequence(_digits(first, last), repeat(DIGIT, rest, rest)))
    return choice(*options, *([at_top] if at_top else []))


def _digits(first: int, last: int) -> Expression:
    return Literal(str(first)) if first == last else Chars(CodeSet.of((0x30 + first, 0x30 + last)))


def multiples(bounds: Bounds, divisor: int, grammar: Grammar, rule_prefix: str) -> Expression | None:
    """Integers of the range that the divisor divides; None when that is not followed."""
    low, high = bounds.integers()
    if low is not None and high is not None and (high - low) // divisor < MAX_LISTED:
        first = -(-low // divisor) * divisor
        return choice(*(Literal(str(value)) for value in range(first, high + 1, divisor)))
    if divisor > MAX_MODULUS or low not in (None, 0) or high is not None:
        return None
    positive = _divisible(divisor, grammar, rule_prefix)
    return positive if low == 0 else sequence(optional(_MINUS), positive)


def _divisible(divisor: int, grammar: Grammar, rule_prefix: str) -> Expression:
    """Digits whose value has remainder 0: one rule for each remainder of what was read so far."""
    for remainder in range(divisor):
        options: list[Expression] = [EMPTY] if remainder == 0 else []
        options.extend(_digit_to(d, (remainder * 10 + d) % divisor, rule_prefix) for d in range(10))
        grammar.define(f"{rule_prefix}{remainder}", choice(*options))
    return choice(Literal("0"), *(_digit_to(d, d % divisor, rule_prefix) for d in range(1, 10)))


def _digit_to(digit: int, remainder: int, rule_prefix: str) -> Expression:
    return sequence(Literal(str(digit)), Rule(f"{rule_prefix}{remainder}"))


# Numbers with a fraction


def number_expression(bounds: Bounds) -> Expression:
    """Decimal numbers of the range."""
    if bounds.is_empty():
        return NOTHING
    options: list[Expression] = []
    if bounds.low is None or bounds.low < 0:
        mirrored = Bounds(
            None if bounds.high is None else -bounds.high,
            None if bounds.low is None else -bounds.low,
            bounds.open_high,
            bounds.open_low,
        )
        options.append(sequence(_MINUS, _magnitude(mirrored)))
    if bounds.high is None or bounds.high >= 0:
        options.append(_magnitude(bounds))
    return choice(*(option for option in options if option != NOTHING))


def _magnitude(bounds: Bounds) -> Expression:
    """Numbers of the range that are not negative, without a sign."""
    if bounds.low is None or bounds.low < 0:
        bounds = Bounds(Decimal(0), bounds.high, False, bounds.open_high)
    if bounds.is_empty():
        return NOTHING
    return choice(_plain(bounds), *_with_exponent(bounds))


def _with_exponent(bounds: Bounds) -> list[Expression]:
    low, high = bounds.low or Decimal(0), bounds.high
    mantissa = sequence(NONZERO, optional(sequence(Literal("."), repeat(DIGIT, 1, None))), Chars(CodeSet.of("eE")))
    options: list[Expression] = []
    if low == 0 and (high is None or high >= Decimal("1e-4")):
        small = choice(Chars(CodeSet.of((0x35, 0x39))), sequence(NONZERO, repeat(DIGIT, 1, 2)))
        options.append(sequence(mantissa, _MINUS, optional(Literal("0")), small))
    if high is None and low <= Decimal("1e16"):
        large = choice(
            sequence(Literal("1"), Chars(CodeSet.of((0x36, 0x39)))),
            sequence(Chars(CodeSet.of((0x32, 0x39))), DIGIT),
            sequence(Chars(CodeSet.of("12")), DIGIT, DIGIT),
        )
        options.append(sequence(mantissa, optional(Literal("+")), large))
    return options


def _plain(bounds: Bounds) -> Expression:
    """Digits, and a fraction where there is one."""
    low_whole, low_fraction = _split(bounds.low or Decimal(0))
    low_tail = _fraction_from(low_fraction, open_end=bounds.open_low)
    if bounds.high is None:
        return choice(_whole(low_whole, low_tail), sequence(_natural_from(low_whole + 1), _fraction_from("", False)))
    high_whole, high_fraction = _split(bounds.high)
    if low_whole == high_whole:
        return _whole(low_whole, _fraction_between(low_fraction, high_fraction, bounds.open_low, bounds.open_high))
    middle: Expression = NOTHING
    if high_whole - low_whole > 1:
        middle = sequence(_natural(low_whole + 1, high_whole - 1), _fraction_from("", False))
    high_tail = _fraction_to(high_fraction, open_end=bounds.open_high)
    return _choices(_whole(low_whole, low_tail), middle, _whole(high_whole, high_tail))


def _choices(*options: Expression) -> Expression:
    return choice(*(option for option in options if option != NOTHING))


def _whole(value: int, tail: Expression) -> Expression:
    return sequence(Literal(str(value)), tail)


def _split(value: Decimal) -> tuple[int, str]:
    whole, _, fraction = f"{value:f}".partition(".")
    return int(whole), fraction.rstrip("0")


def _fraction_from(bound: str, open_end: bool) -> Expression:
    """Fractions (with their point) of at least 0.bound; no fraction at all where that is enough."""
    if not bound and not open_end:
        return optional(sequence(Literal("."), repeat(DIGIT, 1, None)))
    return sequence(Literal("."), _digits_from(bound, open_end))


def _digits_from(bound: str, open_end: bool) -> Expression:
    """Digit strings that are not below the bound."""
    exact = sequence(Literal(bound), _ANY_DIGITS)
    if open_end:
        exact = sequence(Literal(bound), repeat(Literal("0"), 0, None), NONZERO, _ANY_DIGITS)
    above = [sequence(Literal(bound[:i]), _digits(int(d) + 1, 9), _ANY_DIGITS) for i, d in enumerate(bound) if d != "9"]
    return choice(exact, *above)


def _fraction_to(bound: str, open_end: bool) -> Expression:
    """Fractions (with their point) of at most 0.bound, and none at all where zero is allowed."""
    zeros = optional(sequence(Literal("."), repeat(Literal("0"), 1, None)))
    if not bound:
        return NOTHING if open_end else zeros
    return optional(sequence(Literal("."), _digits_to(bound, open_end)))


def _digits_to(bound: str, open_end: bool) -> Expression:
    """Non-empty digit strings that are not above the bound, which ends in no zero."""
    options: list[Expression] = []
    for i, d in enumerate(bound):
        if i:
            options.append(Literal(bound[:i]))
        if d != "0":
            options.append(sequence(Literal(bound[:i]), _digits(0, int(d) - 1), _ANY_DIGITS))
    if not open_end:
        options.append(sequence(Literal(bound), repeat(Literal("0"), 0, None)))
    return choice(*options)


def _fraction_between(low: str, high: str, open_low: bool, open_high: bool) -> Expression:
    """Fractions from 0.low to 0.high."""
    if not low:
        return _fraction_up_to(high, open_low, open_high)
    width = max(len(low), len(high))
    return sequence(Literal("."), _digits_between(low.ljust(width, "0"), high.ljust(width, "0"), open_low, open_high))


def _fraction_up_to(high: str, open_low: bool, open_high: bool) -> Expression:
    at_most = _fraction_to(high, open_high)
    if not open_low:
        return at_most
    width = len(high)
    return sequence(Literal("."), _digits_between("0" * width, high, True, open_high)) if width else NOTHING


def _digits_between(low: str, high: str, open_low: bool, open_high: bool) -> Expression:
    """Digit strings between two bounds of the same width, read as fractions."""
    if not low:
        return NOTHING if open_low or open_high else repeat(Literal("0"), 0, None)
    if low[0] == high[0]:
        return _common_digit(low, high, open_low, open_high)
    options = [sequence(Literal(low[0]), _tail_from(low[1:].rstrip("0"), open_low))]
    first, last = int(low[0]) + 1, int(high[0]) - 1
    if first <= last:
        options.append(sequence(_digits(first, last), _ANY_DIGITS))
    options.append(sequence(Literal(high[0]), _tail_to(high[1:].rstrip("0"), open_high)))
    return _choices(*options)


def _common_digit(low: str, high: str, open_low: bool, open_high: bool) -> Expression:
    rest = _digits_between(low[1:], high[1:], open_low, open_high)
    return sequence(Literal(low[0]), rest)


def _tail_from(bound: str, open_end: bool) -> Expression:
    """Further digits, maybe none, that keep the value at or above the bound."""
    return _ANY_DIGITS if not bound and not open_end else _digits_from(bound, open_end)


def _tail_to(bound: str, open_end: bool) -> Expression:
    """Further digits, maybe none, that keep the value at or below the bound."""
    if not bound:
        return NOTHING if open_end else repeat(Literal("0"), 0, None)
    return optional(_digits_to(bound, open_end))
