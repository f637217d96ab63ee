"""Regular expressions of JSON Schema's `pattern` (ECMA-262 §22.2), parsed into a tree.

Only constructs of regular languages have a node of their own; look-around, word boundaries and some anchors become
`Unsupported`. In a schema's pattern such a construct is ignored (the grammar then accepts more, which is reported); a
`regex` guide that uses one is rejected.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_policy.guidance.grammar.code_set import DIGITS, EVERY_CODE, NON_ASCII, SPACE, WORD, CodeSet
from llm_policy.release.guide_limits import GuideLimits


class InvalidRegex(ValueError):
    """The text is not a regex that can be parsed; the message names the error and never quotes the text."""


class RegexTooComplex(ValueError):
    """The regex is over a limit."""

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
class Alternation:
    """One of the options."""

    options: tuple[RegexNode, ...]


@dataclass(frozen=True, slots=True)
class Repetition:
    """The part, `min_count` to `max_count` times."""

    part: RegexNode
    min_count: int
    max_count: int | None


@dataclass(frozen=True, slots=True)
class Anchor:
    """`^` or `$`."""

    mark: str


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A construct without an equivalent in a regular language, by its name."""

    feature: str


RegexNode = Match | Concat | Alternation | Repetition | Anchor | Unsupported

ANYTHING = Repetition(Match(EVERY_CODE), 0, None)

_CLASS_ESCAPES = {"d": DIGITS, "D": ~DIGITS, "w": WORD, "W": ~WORD, "s": SPACE, "S": ~SPACE}
_CONTROL_ESCAPES = {"n": 0x0A, "r": 0x0D, "t": 0x09, "v": 0x0B, "f": 0x0C}
_DOT = ~CodeSet.of("\n")
"""As in the validator. ECMA-262 also excludes `\\r`, U+2028 and U+2029; the wider set never rejects a valid text."""
_PROPERTY_ASCII = {"L": (0x41, 0x7A), "N": (0x30, 0x39)}


def parse_regex(text: str, limits: GuideLimits) -> RegexNode:
    """The tree of a regex.

    Raises:
        InvalidRegex: the text is not a regex.
        RegexTooComplex: it is over a limit.
    """
    size = len(text.encode("utf-8"))
    if size > limits.max_regex_bytes:
        raise RegexTooComplex("regex size in bytes", size, limits.max_regex_bytes)
    tree = _Parser(text, limits.max_regex_depth).parse()
    positions = count_positions(tree)
    if positions > limits.max_regex_positions:
        raise RegexTooComplex("size of the regex with repeats unrolled", positions, limits.max_regex_positions)
    return tree


def count_positions(node: RegexNode) -> int:
    """Number of character positions once every counted repeat is unrolled.

    A repeat of a single character set counts once: the grammar counts it without copies.
    """
    if isinstance(node, Concat):
        return sum(map(count_positions, node.parts))
    if isinstance(node, Alternation):
        return sum(map(count_positions, node.options)) + len(node.options)
    if isinstance(node, Repetition):
        if isinstance(node.part, Match):
            return 1
        return (count_positions(node.part) + 1) * max(1, node.max_count or node.min_count)
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
            raise InvalidRegex("a closing parenthesis without an opening one")
        return tree

    def peek(self, wanted: str) -> bool:
        return self.text.startswith(wanted, self.position)

    def take(self, wanted: str) -> bool:
        found = self.peek(wanted)
        self.position += len(wanted) if found else 0
        return found

    def next(self) -> str:
        if self.position >= len(self.text):
            raise InvalidRegex("an incomplete construct at its end")
        self.position += 1
        return self.text[self.position - 1]

    def disjunction(self) -> RegexNode:
        options = [self.alternative()]
        while self.take("|"):
            options.append(self.alternative())
        return options[0] if len(options) == 1 else Alternation(tuple(options))

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
            return Unsupported("a repeated anchor")
        if self.quantifier() is not None:
            raise InvalidRegex("a quantifier after a quantifier")
        return atom if isinstance(atom, Unsupported) else Repetition(atom, *bounds)

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
        min_count, comma, max_count = inside.partition(",")
        if not closed or not _is_count(min_count) or (max_count and not _is_count(max_count)):
            return None
        self.position += len(inside) + 2
        high = (int(max_count) if max_count else None) if comma else int(min_count)
        if high is not None and high < int(min_count):
            raise InvalidRegex("a repeat whose maximum is below its minimum")
        return int(min_count), high

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
            raise InvalidRegex("a quantifier with nothing to repeat")
        return Match(CodeSet.of(mark))

    def group(self) -> RegexNode:
        self.depth += 1
        if self.depth > self.max_depth:
            raise RegexTooComplex("nesting depth of the regex", self.depth, self.max_depth)
        feature = self.group_kind()
        inner = self.disjunction()
        if not self.take(")"):
            raise InvalidRegex("a parenthesis that is not closed")
        self.depth -= 1
        return Unsupported(feature) if feature else inner

    def group_kind(self) -> str:
        """Name of the feature for look-around; empty for an ordinary group."""
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
        raise InvalidRegex("a group option that ECMA-262 does not define")

    def escape(self) -> RegexNode:
        mark = self.next()
        if mark in "bB":
            return Unsupported("word boundary")
        if mark in "123456789" or (mark == "k" and self.peek("<")):
            raise InvalidRegex("a back-reference")
        return Match(self.escaped_set(mark))

    def escaped_set(self, mark: str) -> CodeSet:
        if mark in _CLASS_ESCAPES:
            return _CLASS_ESCAPES[mark]
        if mark in "pP" and self.peek("{"):
            return self.unicode_property(mark)
        return CodeSet.of((code := self.escaped_code(mark), code)) if mark else CodeSet(())

    def unicode_property(self, mark: str) -> CodeSet:
        """A superset of the property: only ASCII letters and digits are exact."""
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
            raise InvalidRegex("an escape without its hexadecimal digits") from None

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
            raise InvalidRegex("a character range that runs backwards")
        return CodeSet.of((first, last)) - CodeSet.of((0xD800, 0xDFFF))

    def class_atom(self) -> CodeSet:
        mark = self.next()
        if mark != "\\":
            return CodeSet.of(mark)
        mark = self.next()
        return CodeSet.of((8, 8)) if mark == "b" else self.escaped_set(mark)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 6


def unsupported_features(node: RegexNode) -> tuple[str, ...]:
    """Names of the unsupported features that the tree uses."""
    found: dict[str, None] = {}
    pending = [node]
    while pending:
        item = pending.pop()
        if isinstance(item, Unsupported):
            found[item.feature] = None
        elif isinstance(item, Concat):
            pending.extend(item.parts)
        elif isinstance(item, Alternation):
            pending.extend(item.options)
        elif isinstance(item, Repetition):
            pending.append(item.part)
    return tuple(found)
