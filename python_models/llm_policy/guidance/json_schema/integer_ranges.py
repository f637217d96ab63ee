"""Ranges and multiples of integers as grammar expressions.

A range of integers is a regular language: the digits follow a bound as long as they equal it, and are free once they
differ in the allowed direction.
"""

from __future__ import annotations

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
from llm_policy.guidance.json_schema.number_bounds import Bounds

DIGIT = Chars(CodeSet.of((0x30, 0x39)))
NONZERO = Chars(CodeSet.of((0x31, 0x39)))
ANY_DIGITS = repeat(DIGIT, 0, None)
_NATURAL = choice(Literal("0"), sequence(NONZERO, ANY_DIGITS))
MINUS = Literal("-")

MAX_LISTED = 512
"""Up to this many multiples in a range are listed one by one."""
MAX_MODULUS = 64
"""Largest `multipleOf` in a range without bounds; it needs one rule per remainder."""


def integer_expression(low: int | None, high: int | None) -> Expression:
    """Integers from low to high, inclusive, without leading zeros and without `-0`."""
    if low is not None and high is not None and low > high:
        return NOTHING
    options: list[Expression] = []
    if low is None or low < 0:
        least = 1 if high is None or high >= 0 else -high
        options.append(sequence(MINUS, natural(least, None if low is None else -low)))
    if high is None or high >= 0:
        options.append(natural(max(low or 0, 0), high))
    return choice(*options)


def integers_without(low: int | None, high: int | None, excluded: list[int]) -> Expression:
    """The integers of a range except the excluded ones, which are sorted."""
    options: list[Expression] = []
    for value in excluded:
        if (low is None or value >= low) and (high is None or value <= high):
            options.append(integer_expression(low, value - 1))
            low = value + 1
    options.append(integer_expression(low, high))
    return choice(*options)


def natural(low: int, high: int | None) -> Expression:
    """Integers from low ≥ 0 to high, inclusive."""
    if high is None:
        return natural_from(low)
    bottom, top = str(low), str(high)
    if len(bottom) == len(top):
        return _between(bottom, top)
    options = [_between(bottom, "9" * len(bottom))]
    if len(top) - len(bottom) > 1:
        options.append(sequence(NONZERO, repeat(DIGIT, len(bottom), len(top) - 2)))
    options.append(_between("1" + "0" * (len(top) - 1), top))
    return choice(*options)


def natural_from(low: int) -> Expression:
    """Integers from low ≥ 0."""
    if low == 0:
        return _NATURAL
    bottom = str(low)
    if low == 1:
        return sequence(NONZERO, ANY_DIGITS)
    longer = sequence(NONZERO, repeat(DIGIT, len(bottom), None))
    return choice(_between(bottom, "9" * len(bottom)), longer)


def _between(low: str, high: str) -> Expression:
    """Digit strings from low to high, which have the same length."""
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
        options.append(sequence(digit_range(first, last), repeat(DIGIT, rest, rest)))
    return choice(*options, *([at_top] if at_top else []))


def digit_range(first: int, last: int) -> Expression:
    """One digit from first to last."""
    return Literal(str(first)) if first == last else Chars(CodeSet.of((0x30 + first, 0x30 + last)))


def multiples(bounds: Bounds, divisor: int, grammar: Grammar, rule_prefix: str) -> Expression | None:
    """Multiples of the divisor in the range; None if no grammar is small enough."""
    low, high = bounds.integers()
    if low is not None and high is not None and (high - low) // divisor < MAX_LISTED:
        first = -(-low // divisor) * divisor
        return choice(*(Literal(str(value)) for value in range(first, high + 1, divisor)))
    if divisor > MAX_MODULUS or low not in (None, 0) or high is not None:
        return None
    positive = _divisible(divisor, grammar, rule_prefix)
    return positive if low == 0 else sequence(optional(MINUS), positive)


def _divisible(divisor: int, grammar: Grammar, rule_prefix: str) -> Expression:
    """Integers ≥ 0 that the divisor divides: one rule for each remainder of the digits so far."""
    for remainder in range(divisor):
        options: list[Expression] = [EMPTY] if remainder == 0 else []
        options.extend(_digit_to(d, (remainder * 10 + d) % divisor, rule_prefix) for d in range(10))
        grammar.define(f"{rule_prefix}{remainder}", choice(*options))
    return choice(Literal("0"), *(_digit_to(d, d % divisor, rule_prefix) for d in range(1, 10)))


def _digit_to(digit: int, remainder: int, rule_prefix: str) -> Expression:
    return sequence(Literal(str(digit)), Rule(f"{rule_prefix}{remainder}"))
