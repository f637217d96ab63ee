"""Sets of Unicode code points as sorted, disjoint ranges.

Complements never contain surrogates, because JSON text is UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Range = tuple[int, int]

LAST_CODE = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The ranges sorted, overlapping and adjacent ones merged."""
    merged: list[Range] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        elif low <= high:
            merged.append((low, high))
    return tuple(merged)


def _overlap(left: tuple[Range, ...], right: tuple[Range, ...]) -> tuple[Range, ...]:
    found: list[Range] = []
    i = j = 0
    while i < len(left) and j < len(right):
        low, high = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if low <= high:
            found.append((low, high))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


@dataclass(frozen=True, slots=True)
class CodeSet:
    """An immutable set of code points; both ends of a range are included."""

    ranges: tuple[Range, ...]

    @staticmethod
    def of(*items: str | Range) -> CodeSet:
        """The characters of each string and the code points of each range."""
        ranges: list[Range] = []
        for item in items:
            ranges.extend((ord(c), ord(c)) for c in item) if isinstance(item, str) else ranges.append(item)
        return CodeSet(_joined(ranges))

    @staticmethod
    def joined(sets: Iterable[CodeSet]) -> CodeSet:
        """The union of all sets."""
        return CodeSet(_joined(span for one in sets for span in one.ranges))

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __contains__(self, code: object) -> bool:
        return isinstance(code, int) and any(low <= code <= high for low, high in self.ranges)

    def __or__(self, other: CodeSet) -> CodeSet:
        return CodeSet(_joined(self.ranges + other.ranges))

    def __and__(self, other: CodeSet) -> CodeSet:
        return CodeSet(_overlap(self.ranges, other.ranges))

    def __sub__(self, other: CodeSet) -> CodeSet:
        return self & ~other

    def __invert__(self) -> CodeSet:
        gaps: list[Range] = []
        start = 0
        for low, high in _joined((*self.ranges, _SURROGATES)):
            if start < low:
                gaps.append((start, low - 1))
            start = high + 1
        if start <= LAST_CODE:
            gaps.append((start, LAST_CODE))
        return CodeSet(tuple(gaps))

    def size(self) -> int:
        """Number of code points."""
        return sum(high - low + 1 for low, high in self.ranges)

    def halves(self) -> tuple[CodeSet, CodeSet]:
        """Two disjoint, non-empty sets whose union is this set of at least two code points."""
        if len(self.ranges) > 1:
            return CodeSet(self.ranges[:1]), CodeSet(self.ranges[1:])
        low, high = self.ranges[0]
        middle = (low + high) // 2
        return CodeSet(((low, middle),)), CodeSet(((middle + 1, high),))

    def ebnf(self) -> str:
        """The EBNF character class; a set that contains the last code point is written as a negated class."""
        if self.ranges and self.ranges[-1][1] == LAST_CODE:
            excluded = ~self
            return "[^" + "".join(map(_write_range, excluded.ranges)) + "]" if excluded else "[\\u0000-\\U0010ffff]"
        return "[" + "".join(map(_write_range, self.ranges)) + "]"


def _write_range(span: Range) -> str:
    low, high = span
    return _write_code(low) if low == high else f"{_write_code(low)}-{_write_code(high)}"


def _write_code(code: int) -> str:
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    # not \\xHH: XGrammar reads all hexadecimal digits that follow
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


EVERY_CODE = ~CodeSet(())
NO_CODE = CodeSet(())
DIGITS = CodeSet.of((0x30, 0x39))
WORD = DIGITS | CodeSet.of((0x41, 0x5A), (0x61, 0x7A), "_")
"""ECMA-262 `\\w`."""
SPACE = CodeSet.of((0x09, 0x0D), " \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff", (0x2000, 0x200A))
"""ECMA-262 `\\s`: WhiteSpace and LineTerminator."""
NON_ASCII = CodeSet.of((0x80, 0xD7FF), (0xE000, LAST_CODE))
