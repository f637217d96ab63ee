"""Regular expressions of JSON Schema's `pattern` (ECMA-262 §22.2), parsed into a tree.

Only what a regular language can say is a node. Look-around, word boundaries and back-references become a `Gap`:
for a schema's pattern the gap is left out (the grammar then accepts more, and the report says so), a client's own
regex with a gap is refused by the feature's name.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_policy.guidance.grammar.code_set import DIGITS, EVERY_CODE, NON_ASCII, SPACE, WORD, CodeSet
from llm_policy.release.guide_limits import GuideLimits


class RegexFault(ValueError):
    """The text is no regex that we can follow; the message names the rule, never the text."""


class RegexTooComplex(ValueError):
    """The regex is over a limit: what, how much, and the limit."""

    def __init__(self, what: str, given: int, limit: int) -> None:
        super().__init__(f"{what} is {given}, limit {limit}")
        self.what = what
        self.given = given
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Match:
    """One character of the set."""

    codes: CodeSet


@dataclass(frozen=True, slots=True)
class Concat:
    """All parts in order."""

    parts: tuple[RegexNode, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of the options."""

    options: tuple[RegexNode, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """The part, `least` to `most` times."""

    part: RegexNode
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Anchor:
    """`^` or `$`."""

    mark: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A construct that is left out: `feature` names it."""

    feature: str


RegexNode = Match | Concat | Either | Loop | Anchor | Gap

NOTHING_BUT_EMPTY = Concat(())
ANYTHING = Loop(Match(EVERY_CODE), 0, None)

_CLASS_ESCAPES = {"d": DIGITS, "D": ~DIGITS, "w": WORD, "W": ~WORD, "s": SPACE, "S": ~SPACE}
_CONTROL_ESCAPES = {"n": 0x0A, "r": 0x0D, "t": 0x09, "v": 0x0B, "f": 0x0C}
_DOT = ~CodeSet.of("\n")
"""ECMA-262 leaves out three more line ends; the validator only this one. The wider set is never too narrow."""
_PROPERTY_ASCII = {"L": (0x41, 0x7A), "N": (0x30, 0x39)}


def parse_regex(text: str, limits: GuideLimits) -> RegexNode:
    """The tree. Raises RegexFault, or RegexTooComplex over a limit."""
    size = len(text.encode("utf-8"))
    if size > limits.max_regex_bytes:
        raise RegexTooComplex("regex size in bytes", size, limits.max_regex_bytes)
    tree = _Parser(text, limits.max_regex_depth).parse()
    positions = count_positions(tree)
    if positions > limits.max_regex_positions:
        raise RegexTooComplex("size of the regex with repeats written out", positions, limits.max_regex_positions)
    return tree


def count_positions(node: RegexNode) -> int:
    """Characters matched by the tree when every bounded repeat is written out.

    A repeat of a single character set counts once: the grammar counts it without copies.
    """
    if isinstance(node, Concat):
        return sum(map(count_positions, node.parts))
    if isinstance(node, Either):
        return sum(map(count_positions, node.options)) + len(node.options)
    if isinstance(node, Loop):
        if isinstance(node.part, Match):
            return 1
        return (count_positions(node.part) + 1) * max(1, node.most or node.least)
    return 1


class _Parser:
    """Recursive descent, one method per production of ECMA-262 §22.2.1."""

    def __init__(self, text: str, max_depth: int) -> None:
        self.text = text
        self.position = 0
        self.depth = 0
        self.max_depth = max_depth

    def parse(self) -> RegexNode:
        tree = self.disjunction()
        if self.position < len(self.text):
            raise RegexFault("a closing parenthesis without an opening one")
        return tree

    def peek(self, wanted: str) -> bool:
        return self.text.startswith(wanted, self.position)

    def take(self, wanted: str) -> bool:
        found = self.peek(wanted)
        self.position += len(wanted) if found else 0
        return found

    def next(self) -> str:
        if self.position >= len(self.text):
            raise RegexFault("the regex ends in the middle of a construct")
        self.position += 1
        return self.text[self.position - 1]

    def disjunction(self) -> RegexNode:
        options = [self.alternative()]
        while self.take("|"):
            options.append(self.alternative())
        return options[0] if len(options) == 1 else Either(tuple(options))

    def alternative(self) -> RegexNode:
        parts: list[RegexNode] = []
        while self.position < len(self.text) and not self.peek("|") and not self.peek(")"):
            parts.append(self.term())
        return parts[0] if len(parts) == 1 else Concat(tuple(parts))

    def term(self) -> RegexNode:
        atom = self.atom()
        bounds = self.quantifier()
        if bounds is None:
            return atom
        if isinstance(atom, Anchor):
            return Gap("a repeated anchor")
        if self.quantifier() is not None:
            raise RegexFault("a quantifier follows a quantifier")
        return atom if isinstance(atom, Gap) else Loop(atom, *bounds)

    def quantifier(self) -> tuple[int, int | None] | None:
        bounds = self.simple_quantifier() or self.counted_quantifier()
        if bounds is not None:
            self.take("?")
        return bounds

    def simple_quantifier(self) -> tuple[int, int | None] | None:
        for mark, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self.take(mark):
                return bounds
        return None

    def counted_quantifier(self) -> tuple[int, int | None] | None:
        if not self.peek("{"):
            return None
        inside, closed, _ = self.text[self.position + 1 :].partition("}")
        least, comma, most = inside.partition(",")
        if not closed or not _is_count(least) or (most and not _is_count(most)):
            return None
        self.position += len(inside) + 2
        high = (int(most) if most else None) if comma else int(least)
        if high is not None and high < int(least):
            raise RegexFault("a repeat's maximum is below its minimum")
        return int(least), high

    def atom(self) -> RegexNode:
        mark = self.next()
        if mark == "(":
            return self.group()
        if mark == "[":
            return Match(self.character_class())
        if mark == "\\":
            return self.escape()
        if mark in "^$":
            return Anchor(mark)
        if mark == ".":
            return Match(_DOT)
        if mark in "*+?":
            raise RegexFault("a quantifier has nothing to repeat")
        return Match(CodeSet.of(mark))

    def group(self) -> RegexNode:
        self.depth += 1
        if self.depth > self.max_depth:
            raise RegexTooComplex("nesting depth of the regex", self.depth, self.max_depth)
        feature = self.group_kind()
        inner = self.disjunction()
        if not self.take(")"):
            raise RegexFault("a parenthesis is not closed")
        self.depth -= 1
        return Gap(feature) if feature else inner

    def group_kind(self) -> str:
        """Name of the feature when the group only looks and matches nothing; empty for an ordinary group."""
        if not self.take("?") or self.take(":"):
            return ""
        for mark, feature in (("=", "lookahead"), ("!", "lookahead"), ("<=", "lookbehind"), ("<!", "lookbehind")):
            if self.take(mark):
                return feature
        if self.take("<"):
            _, closed, _ = self.text[self.position :].partition(">")
            if closed:
                self.position = self.text.index(">", self.position) + 1
                return ""
        raise RegexFault("a group option that ECMA-262 does not know")

    def escape(self) -> RegexNode:
        mark = self.next()
        if mark in "bB":
            return Gap("word boundary")
        if mark in "123456789" or (mark == "k" and self.peek("<")):
            raise RegexFault("a back-reference")
        return Match(self.escaped_set(mark))

    def escaped_set(self, mark: str) -> CodeSet:
        if mark in _CLASS_ESCAPES:
            return _CLASS_ESCAPES[mark]
        if mark in "pP" and self.peek("{"):
            return self.unicode_property(mark)
        return CodeSet.of((code := self.escaped_code(mark), code)) if mark else CodeSet(())

    def unicode_property(self, mark: str) -> CodeSet:
        """Too wide on purpose: the ASCII part is exact only for letters and digits, all the rest may match."""
        name, _, _ = self.text[self.position + 1 :].partition("}")
        self.position += len(name) + 2
        if mark == "P" or name[:1] not in _PROPERTY_ASCII:
            return EVERY_CODE
        return NON_ASCII | (WORD & CodeSet.of(_PROPERTY_ASCII[name[:1]]))

    def escaped_code(self, mark: str) -> int:
        if mark in _CONTROL_ESCAPES:
            return _CONTROL_ESCAPES[mark]
        if mark == "c" and self.position < len(self.text):
            return ord(self.next()) % 32
        if mark == "0":
            return 0
        if mark in "xu":
            return self.hexadecimal(mark)
        return ord(mark)

    def hexadecimal(self, mark: str) -> int:
        if mark == "u" and self.take("{"):
            digits, _, _ = self.text[self.position :].partition("}")
            self.position += len(digits) + 1
        else:
            digits = self.text[self.position : self.position + (2 if mark == "x" else 4)]
            self.position += len(digits)
        try:
            return min(int(digits, 16), 0x10FFFF)
        except ValueError:
            raise RegexFault("an escape without its hexadecimal digits") from None

    def character_class(self) -> CodeSet:
        negated = self.take("^")
        codes = CodeSet(())
        while not self.take("]"):
            codes |= self.class_range()
        return ~codes if negated else codes

    def class_range(self) -> CodeSet:
        low = self.class_atom()
        if not self.peek("-") or self.peek("-]"):
            return low
        self.take("-")
        high = self.class_atom()
        if low.size() != 1 or high.size() != 1:
            return low | high | CodeSet.of("-")
        first, last = low.ranges[0][0], high.ranges[0][0]
        if first > last:
            raise RegexFault("a character range that runs backwards")
        return CodeSet.of((first, last)) - CodeSet.of((0xD800, 0xDFFF))

    def class_atom(self) -> CodeSet:
        mark = self.next()
        if mark != "\\":
            return CodeSet.of(mark)
        mark = self.next()
        return CodeSet.of((8, 8)) if mark == "b" else self.escaped_set(mark)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 6


def feature_gaps(node: RegexNode) -> tuple[str, ...]:
    """Names of the features that the tree leaves out."""
    found: dict[str, None] = {}
    waiting = [node]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Gap):
            found[item.feature] = None
        elif isinstance(item, Concat):
            waiting.extend(item.parts)
        elif isinstance(item, Either):
            waiting.extend(item.options)
        elif isinstance(item, Loop):
            waiting.append(item.part)
    return tuple(found)
