"""JSON as RFC 8259 and RFC 7493 (I-JSON) have it: one reading of every text, or a refusal.

Python's own reader takes duplicate keys, NaN and lone surrogates, and recurses as deep as the text says.
Here the nesting is measured before anything recurses, and each of those is a fault.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from llm_policy.guidance.limits import check_limit, invalid
from llm_policy.release.guide_limits import GuideLimits

JsonValue = Any

MAX_NUMBER_DIGITS = 400
"""Longest number text: the largest double written out has 309 digits."""

_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)
_LARGEST_EXACT = 2**53


def read_json(text: str | bytes, limits: GuideLimits) -> JsonValue:
    """The value of one JSON text. Raises `schema_invalid` or, over a limit, `schema_too_complex`."""
    data = _utf8(text)
    check_limit("guide size in bytes", len(data), limits.max_bytes)
    if data.startswith(b"\xef\xbb\xbf"):
        raise invalid("the text starts with a byte order mark")
    check_limit("nesting depth", nesting_depth(data), limits.max_depth)
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise invalid("the text is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise invalid(f"the text is not JSON at character {error.pos}") from None
    except RecursionError:
        raise invalid("the text nests too deep") from None
    _check_strings(value)
    return value


def _utf8(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise invalid("the text holds a lone surrogate") from None


def nesting_depth(data: bytes) -> int:
    """Deepest bracket outside strings. Exact up to the first syntax error, which is as far as a reader gets."""
    depth = deepest = 0
    for match in _BRACKETS.finditer(data):
        mark = match.group()
        if mark in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif mark in (b"]", b"}"):
            depth -= 1
    return deepest


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise invalid("an object names the same member twice")
    return members


def _constant(_: str) -> NoReturn:
    raise invalid("NaN and Infinity are no JSON numbers")


def _integer(digits: str) -> int:
    if len(digits) > MAX_NUMBER_DIGITS:
        raise invalid(f"a number has {len(digits)} digits, limit {MAX_NUMBER_DIGITS}")
    return int(digits)


def _fraction(digits: str) -> float:
    if len(digits) > MAX_NUMBER_DIGITS:
        raise invalid(f"a number has {len(digits)} digits, limit {MAX_NUMBER_DIGITS}")
    value = float(digits)
    if math.isinf(value):
        raise invalid("a number is beyond the range of a double")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_fraction
)


def _check_strings(value: JsonValue) -> None:
    """Refuse lone surrogates, which an escape can smuggle into a string and no UTF-8 text can hold."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, str) and any("\ud800" <= c <= "\udfff" for c in item):
            raise invalid("a string holds a lone surrogate")


def write_json(value: JsonValue) -> str:
    """Compact JSON text in the members' own order, characters as themselves."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def canonical_json(value: JsonValue) -> str:
    """RFC 8785 text: sorted members, one spelling per value.

    One departure: an integer that no double holds exactly keeps all its digits, so that two schemas
    which differ only there never share a name.
    """
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))
        return "{" + ",".join(f"{write_json(k)}:{canonical_json(v)}" for k, v in members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical_json, value)) + "]"
    if isinstance(value, float):
        return _canonical_number(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_EXACT:
        return _canonical_number(float(value)) if _is_exact(value) else str(value)
    return write_json(value)


def _is_exact(value: int) -> bool:
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _canonical_number(value: float) -> str:
    """ECMA-262 Number::toString, which RFC 8785 prescribes."""
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'+' if point > 0 else '-'}{abs(point - 1)}"
