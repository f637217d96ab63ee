"""Strict JSON (RFC 8259 and RFC 7493, I-JSON): every text has one meaning or is rejected.

Python's own reader accepts duplicate keys, NaN and lone surrogates, and recurses as deeply as the text nests. This
reader rejects the first three and measures the nesting before it recurses.
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
"""Longest number; the largest double has 309 digits."""

_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)
_LARGEST_EXACT = 2**53


def read_json(text: str | bytes, limits: GuideLimits) -> JsonValue:
    """The value of one JSON text.

    Raises:
        InvalidRequest: `schema_invalid`, or `schema_too_complex` over `max_bytes` or `max_depth`.
    """
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
        raise invalid("the text is nested too deeply") from None
    _check_strings(value)
    return value


def _utf8(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise invalid("the text contains a lone surrogate") from None


def nesting_depth(data: bytes) -> int:
    """Depth of the deepest bracket outside strings, exact up to the first syntax error, where the reader stops."""
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
    raise invalid("NaN and Infinity are not JSON numbers")


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
    """Reject lone surrogates: an escape can put one into a string, but UTF-8 can't encode it."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str) and any("\ud800" <= c <= "\udfff" for c in item):
            raise invalid("a string contains a lone surrogate")


def write_json(value: JsonValue) -> str:
    """Compact JSON text, members in their own order, non-ASCII characters unescaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def canonical_json(value: JsonValue) -> str:
    """RFC 8785 text: sorted members, one spelling per value.

    One exception: an integer that a double can't represent exactly keeps all its digits, so that two schemas that
    differ only there have different ids.
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
