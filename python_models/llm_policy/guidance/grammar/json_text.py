"""Grammar expressions for JSON text (RFC 8259).

In a constrained string each character has one spelling: itself, or if it must be escaped, its short escape or else
`\\u00xx`. An unconstrained string may use every escape.
"""

from __future__ import annotations

from collections.abc import Callable

from llm_policy.guidance.grammar.code_set import DIGITS, CodeSet
from llm_policy.guidance.grammar.grammar import (
    EMPTY,
    NOTHING,
    Chars,
    Expression,
    Grammar,
    Literal,
    Rule,
    choice,
    one_of,
    repeat,
    sequence,
)

Builder = Callable[[], Expression]

_MUST_ESCAPE = CodeSet.of((0x00, 0x1F), '"\\')
PLAIN = ~_MUST_ESCAPE
"""Characters that need no escape inside a JSON string."""
_SHORT_ESCAPES = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}
_HEX = DIGITS | CodeSet.of((0x41, 0x46), (0x61, 0x66))


def character(codes: CodeSet) -> Expression:
    """One character of the set inside a JSON string."""
    plain = codes - _MUST_ESCAPE
    escaped = codes & _MUST_ESCAPE
    options: list[Expression] = []
    if plain:
        options.append(one_of(plain))
    if escaped:
        options.extend(_escapes(escaped))
    return choice(*options)


def _escapes(codes: CodeSet) -> list[Expression]:
    """Short escapes, and `\\u00xx` for control characters."""
    letters = CodeSet.of("".join(letter for code, letter in _SHORT_ESCAPES.items() if code in codes))
    options: list[Expression] = [sequence(Literal("\\"), one_of(letters))] if letters else []
    for row in (0, 1):
        digits = "".join(f"{code:x}" for code in range(16) if 16 * row + code in codes)
        if digits:
            options.append(sequence(Literal(f"\\u00{row}"), one_of(CodeSet.of(digits))))
    return options


def run(codes: CodeSet) -> Expression:
    """Any number of characters of the set. Plain ones repeat in place, which is fast for multi-character tokens."""
    plain = repeat(one_of(codes - _MUST_ESCAPE), 0, None)
    escaped = codes & _MUST_ESCAPE
    if not escaped:
        return plain
    return sequence(plain, repeat(sequence(choice(*_escapes(escaped)), plain), 0, None))


def any_escape() -> Expression:
    """Every escape of RFC 8259, surrogates only in pairs."""
    d = Chars(CodeSet.of("dD"))
    not_d = Chars(_HEX - CodeSet.of("dD"))
    hexadecimal = Chars(_HEX)
    other = sequence(not_d, *[hexadecimal] * 3)
    d_not_surrogate = sequence(d, Chars(CodeSet.of((0x30, 0x37))), *[hexadecimal] * 2)
    pair = sequence(
        d,
        Chars(CodeSet.of("89abAB")),
        *[hexadecimal] * 2,
        Literal("\\u"),
        d,
        Chars(CodeSet.of("cdefCDEF")),
        *[hexadecimal] * 2,
    )
    short = sequence(Literal("\\"), Chars(CodeSet.of('"\\/bfnrt')))
    return choice(short, sequence(Literal("\\u"), choice(other, d_not_surrogate, pair)))


class JsonText:
    """Rules of JSON text that one grammar shares, defined on first use."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._longest: dict[Expression, int] = {}
        self._preceding: dict[tuple[Expression, int], Rule] = {}

    def any_string(self) -> Rule:
        """Any string, with its quotes."""
        return self._define_once("str", lambda: sequence(Literal('"'), self.any_tail(Literal('"'))))

    def escape(self) -> Rule:
        """One escape of any kind."""
        return self._define_once("esc", any_escape)

    def _any_characters(self, name: str, tail: Expression) -> Rule:
        """Any characters, then the tail. In place, because a rule for one character would end within every token."""
        plain = repeat(Chars(PLAIN), 0, None)
        return self._define_once(name, lambda: sequence(plain, choice(tail, sequence(self.escape(), Rule(name)))))

    def counted_string(self, min_length: int, max_length: int | None, tail: Expression) -> Expression:
        """An opening quote, `min_length` to `max_length` characters, and the tail; counted by reference to a rule.

        For llguidance only: in XGrammar any length compiles in milliseconds, but each token mask takes some 100 ms.
        """
        one = self._define_once("char", lambda: choice(Chars(PLAIN), self.escape()))
        return sequence(Literal('"'), repeat(one, min_length, max_length), tail)

    def bounded_string(self, min_length: int, max_length: int | None, tail: Expression) -> Expression:
        """The same, counted by a chain of rules, one for each character, which all bounded strings share."""
        if max_length is None:
            end: Expression = self.any_tail(tail)
        else:
            end = self._counted_down(max_length - min_length, tail)
        return sequence(Literal('"'), self._preceded(min_length, end))

    def num_new_characters(self, min_length: int, max_length: int | None, tail: Expression) -> int:
        """How many rules for one character each `bounded_string` would add."""
        if max_length is None:
            known = max((n for n in range(min_length + 1) if (self.any_tail(tail), n) in self._preceding), default=0)
            return min_length - known
        return min_length + max(max_length - min_length - self._longest.get(tail, 0), 0)

    def _preceded(self, count: int, end: Expression) -> Expression:
        """`count` characters, then `end`. Alternatives within one rule would compile three times as long."""
        after = end
        for number in range(1, count + 1):
            key = (end, number)
            if key not in self._preceding:
                options = (sequence(Chars(PLAIN), after), sequence(self.escape(), after))
                self._preceding[key] = self.grammar.define(f"m{len(self._preceding)}", choice(*options))
            after = self._preceding[key]
        return after

    def _counted_down(self, max_length: int, tail: Expression) -> Expression:
        """Up to `max_length` characters and the tail: each rule is one character and the rule for one less."""
        if max_length == 0:
            return tail
        prefix = f"l{list(self._longest).index(tail) if tail in self._longest else len(self._longest)}_"
        for left in range(self._longest.get(tail, 0) + 1, max_length + 1):
            after: Expression = Rule(f"{prefix}{left - 1}") if left > 1 else tail
            options = (sequence(Chars(PLAIN), after), sequence(self.escape(), after), tail)
            self.grammar.define(f"{prefix}{left}", choice(*options))
        self._longest[tail] = max(max_length, self._longest.get(tail, 0))
        return Rule(f"{prefix}{max_length}")

    def any_key(self) -> Rule:
        """Any member name, with its quotes and colon."""
        return self._define_once("key", lambda: sequence(self.any_string(), Literal(":")))

    def any_tail(self, tail: Expression) -> Rule:
        """Any rest of a string and the tail. The rest of a member name has no escapes, which is cheaper."""
        if tail == Literal('"'):
            return self._any_characters("rest", tail)
        return self._define_once("keyrest", lambda: sequence(repeat(Chars(PLAIN), 0, None), tail))

    def any_value(self) -> Rule:
        """Any JSON value, without whitespace."""
        if "any" not in self.grammar.rules:
            self.grammar.rules["any"] = EMPTY
            self.grammar.define("any", self._any_value())
        return Rule("any")

    def any_object(self) -> Rule:
        """Any JSON object, without whitespace."""
        member = sequence(self.any_key(), Rule("any"))
        self.any_value()
        return self._define_once("object", lambda: wrapped("{", listed(member, 0, None), "}"))

    def any_array(self) -> Rule:
        """Any JSON array, without whitespace."""
        self.any_value()
        return self._define_once("array", lambda: wrapped("[", listed(Rule("any"), 0, None), "]"))

    def any_number(self) -> Rule:
        """Any JSON number (RFC 8259 §6)."""
        return self._define_once("number", _any_number)

    def _define_once(self, name: str, build: Builder) -> Rule:
        if name not in self.grammar.rules:
            self.grammar.define(name, build())
        return Rule(name)

    def _any_value(self) -> Expression:
        keywords = (Literal("true"), Literal("false"), Literal("null"))
        return choice(self.any_string(), self.any_number(), self.any_object(), self.any_array(), *keywords)


def wrapped(opening: str, content: Expression, closing: str) -> Expression:
    """The content between an opening and a closing bracket."""
    return sequence(Literal(opening), content, Literal(closing))


def listed(item: Expression, min_count: int, max_count: int | None) -> Expression:
    """`min_count` to `max_count` items, separated by commas."""
    more = repeat(sequence(Literal(","), item), max(min_count - 1, 0), None if max_count is None else max_count - 1)
    if max_count == 0:
        return EMPTY if min_count == 0 else NOTHING
    non_empty = sequence(item, more)
    return repeat(non_empty, 0, 1) if min_count == 0 else non_empty


def _any_number() -> Expression:
    digit = Chars(DIGITS)
    whole = choice(Literal("0"), sequence(Chars(CodeSet.of((0x31, 0x39))), repeat(digit, 0, None)))
    fraction = sequence(Literal("."), repeat(digit, 1, None))
    exponent = sequence(Chars(CodeSet.of("eE")), repeat(Chars(CodeSet.of("+-")), 0, 1), repeat(digit, 1, None))
    return sequence(repeat(Literal("-"), 0, 1), whole, repeat(fraction, 0, 1), repeat(exponent, 0, 1))
