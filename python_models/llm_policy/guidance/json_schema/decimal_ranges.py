"""Ranges of decimal numbers as grammar expressions.

As for integers, the digits follow a bound as long as they equal it. A number may also have an exponent, as the shortest
text of a double has below 1e-4 and from 1e16 on, if the range contains all numbers of such a magnitude.
"""

from __future__ import annotations

from decimal import Decimal

from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.grammar.grammar import NOTHING, Chars, Expression, Literal, choice, optional, repeat, sequence
from llm_policy.guidance.json_schema.integer_ranges import (
    ANY_DIGITS,
    DIGIT,
    MINUS,
    NONZERO,
    digit_range,
    natural,
    natural_from,
)
from llm_policy.guidance.json_schema.number_bounds import Bounds


def number_expression(bounds: Bounds) -> Expression:
    """Decimal numbers in the range; NOTHING if it is empty."""
    if bounds.is_empty():
        return NOTHING
    options: list[Expression] = []
    if bounds.low is None or bounds.low < 0:
        negated = Bounds(
            None if bounds.high is None else -bounds.high,
            None if bounds.low is None else -bounds.low,
            bounds.open_high,
            bounds.open_low,
        )
        options.append(sequence(MINUS, _magnitude(negated)))
    if bounds.high is None or bounds.high >= 0:
        options.append(_magnitude(bounds))
    return choice(*options)


def _magnitude(bounds: Bounds) -> Expression:
    """Numbers ≥ 0 of the range, without a sign."""
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
        small_exponent = choice(Chars(CodeSet.of((0x35, 0x39))), sequence(NONZERO, repeat(DIGIT, 1, 2)))
        options.append(sequence(mantissa, MINUS, optional(Literal("0")), small_exponent))
    if high is None and low <= Decimal("1e16"):
        large_exponent = choice(
            sequence(Literal("1"), Chars(CodeSet.of((0x36, 0x39)))),
            sequence(Chars(CodeSet.of((0x32, 0x39))), DIGIT),
            sequence(Chars(CodeSet.of("12")), DIGIT, DIGIT),
        )
        options.append(sequence(mantissa, optional(Literal("+")), large_exponent))
    return options


def _plain(bounds: Bounds) -> Expression:
    """Numbers without an exponent."""
    low_whole, low_fraction = _split(bounds.low or Decimal(0))
    low_tail = _fraction_from(low_fraction, is_open=bounds.open_low)
    if bounds.high is None:
        return choice(
            _with_whole_part(low_whole, low_tail), sequence(natural_from(low_whole + 1), _fraction_from("", False))
        )
    high_whole, high_fraction = _split(bounds.high)
    if low_whole == high_whole:
        return _with_whole_part(
            low_whole, _fraction_between(low_fraction, high_fraction, bounds.open_low, bounds.open_high)
        )
    middle: Expression = NOTHING
    if high_whole - low_whole > 1:
        middle = sequence(natural(low_whole + 1, high_whole - 1), _fraction_from("", False))
    high_tail = _fraction_to(high_fraction, is_open=bounds.open_high)
    return choice(_with_whole_part(low_whole, low_tail), middle, _with_whole_part(high_whole, high_tail))


def _with_whole_part(value: int, tail: Expression) -> Expression:
    return sequence(Literal(str(value)), tail)


def _split(value: Decimal) -> tuple[int, str]:
    whole, _, fraction = f"{value:f}".partition(".")
    return int(whole), fraction.rstrip("0")


def _fraction_from(bound: str, is_open: bool) -> Expression:
    """Fractions (with their point) of at least 0.bound; empty if zero is enough."""
    if not bound and not is_open:
        return optional(sequence(Literal("."), repeat(DIGIT, 1, None)))
    return sequence(Literal("."), _digits_from(bound, is_open))


def _digits_from(bound: str, is_open: bool) -> Expression:
    """Digit strings of at least the bound, read as fractions."""
    exact = sequence(Literal(bound), ANY_DIGITS)
    if is_open:
        exact = sequence(Literal(bound), repeat(Literal("0"), 0, None), NONZERO, ANY_DIGITS)
    above = [
        sequence(Literal(bound[:i]), digit_range(int(d) + 1, 9), ANY_DIGITS) for i, d in enumerate(bound) if d != "9"
    ]
    return choice(exact, *above)


def _fraction_to(bound: str, is_open: bool) -> Expression:
    """Fractions (with their point) of at most 0.bound; empty if zero is allowed."""
    zeros = optional(sequence(Literal("."), repeat(Literal("0"), 1, None)))
    if not bound:
        return NOTHING if is_open else zeros
    return optional(sequence(Literal("."), _digits_to(bound, is_open)))


def _digits_to(bound: str, is_open: bool) -> Expression:
    """Non-empty digit strings of at most the bound, read as fractions; the bound does not end with a zero."""
    options: list[Expression] = []
    for i, d in enumerate(bound):
        if i:
            options.append(Literal(bound[:i]))
        if d != "0":
            options.append(sequence(Literal(bound[:i]), digit_range(0, int(d) - 1), ANY_DIGITS))
    if not is_open:
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
        options.append(sequence(digit_range(first, last), ANY_DIGITS))
    options.append(sequence(Literal(high[0]), _tail_to(high[1:].rstrip("0"), open_high)))
    return choice(*options)


def _common_digit(low: str, high: str, open_low: bool, open_high: bool) -> Expression:
    rest = _digits_between(low[1:], high[1:], open_low, open_high)
    return sequence(Literal(low[0]), rest)


def _tail_from(bound: str, is_open: bool) -> Expression:
    """Zero or more digits that keep the value at or above the bound."""
    return ANY_DIGITS if not bound and not is_open else _digits_from(bound, is_open)


def _tail_to(bound: str, is_open: bool) -> Expression:
    """Zero or more digits that keep the value at or below the bound."""
    if not bound:
        return NOTHING if is_open else repeat(Literal("0"), 0, None)
    return optional(_digits_to(bound, is_open))
