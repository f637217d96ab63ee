"""How characters are written inside a JSON string (RFC 8259 §7), as grammar expressions.

A constrained string is written in the one canonical way: a character as itself unless it must be escaped, then
by its short escape where there is one. An unconstrained string takes every escape.
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
    repeat,
    sequence,
)

Builder = Callable[[], Expression]

_MUST_ESCAPE = CodeSet.of((0x00, 0x1F), '"\\')
PLAIN = ~_MUST_ESCAPE
"""Characters that stand for themselves inside a JSON string."""
_SHORT_ESCAPES = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}
_HEX = DIGITS | CodeSet.of((0x41, 0x46), (0x61, 0x66))


def character(codes: CodeSet) -> Expression:
    """One character of the set as JSON text."""
    plain = codes - _MUST_ESCAPE
    escaped = codes & _MUST_ESCAPE
    options: list[Expression] = []
    if plain:
        options.append(_one_of(plain))
    if escaped:
        options.extend(_escapes(escaped))
    return choice(*options) if options else NOTHING


def _escapes(codes: CodeSet) -> list[Expression]:
    """Short escapes where there are some, `\\u00xx` for control characters."""
    letters = CodeSet.of("".join(letter for code, letter in _SHORT_ESCAPES.items() if code in codes))
    options: list[Expression] = [sequence(Literal("\\"), _one_of(letters))] if letters else []
    for row in (0, 1):
        digits = "".join(f"{code:x}" for code in range(16) if 16 * row + code in codes)
        if digits:
            options.append(sequence(Literal(f"\\u00{row}"), _one_of(CodeSet.of(digits))))
    return options


def _one_of(codes: CodeSet) -> Expression:
    return Literal(chr(codes.ranges[0][0])) if codes.size() == 1 else Chars(codes)


def run(codes: CodeSet) -> Expression:
    """Any number of characters of the set. The plain ones loop in place, so that whole tokens pass at once."""
    plain = repeat(_plain(codes), 0, None)
    escaped = codes & _MUST_ESCAPE
    if not escaped:
        return plain
    return sequence(plain, repeat(sequence(choice(*_escapes(escaped)), plain), 0, None))


def _plain(codes: CodeSet) -> Expression:
    plain = codes - _MUST_ESCAPE
    return _one_of(plain) if plain else NOTHING


def any_escape() -> Expression:
    """Every escape that RFC 8259 has, surrogates only in pairs."""
    high = Chars(CodeSet.of("dD"))
    basic = Chars(_HEX - CodeSet.of("dD"))
    hexadecimal = Chars(_HEX)
    below = sequence(basic, *[hexadecimal] * 3)
    beside = sequence(high, Chars(CodeSet.of((0x30, 0x37))), *[hexadecimal] * 2)
    pair = sequence(
        high,
        Chars(CodeSet.of("89abAB")),
        *[hexadecimal] * 2,
        Literal("\\u"),
        high,
        Chars(CodeSet.of("cdefCDEF")),
        *[hexadecimal] * 2,
    )
    short = sequence(Literal("\\"), Chars(CodeSet.of('"\\/bfnrt')))
    return choice(short, sequence(Literal("\\u"), choice(below, beside, pair)))


class JsonText:
    """The shared rules of JSON text in one grammar, defined when first asked for."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._runs: dict[Expression, int] = {}

    def any_string(self) -> Rule:
        """Any string with its quotes."""
        return self._once("str", lambda: sequence(Literal('"'), self.any_tail(Literal('"'))))

    def escape(self) -> Rule:
        """One escape of any kind."""
        return self._once("esc", any_escape)

    def _free(self, name: str, tail: Expression) -> Rule:
        """Any characters, then the tail. In place: a rule for one character would end within every token."""
        plain = repeat(Chars(PLAIN), 0, None)
        return self._once(name, lambda: sequence(plain, choice(tail, sequence(self.escape(), Rule(name)))))

    def counted_string(self, least: int, most: int | None, tail: Expression) -> Expression:
        """A string counted by reference: any length compiles in milliseconds, but each token mask takes some 60 ms."""
        one = self._once("char", lambda: choice(Chars(PLAIN), self.escape()))
        return sequence(Literal('"'), repeat(one, least, most), tail)

    def bounded_string(self, least: int, most: int | None, tail: Expression) -> Expression:
        """A string of `least` to `most` characters. All bounded strings of a grammar share one chain of rules."""
        one = choice(Chars(PLAIN), self.escape())
        head = (Literal('"'), *[one] * least)
        if most is None:
            return sequence(*head, self.any_tail(tail))
        return sequence(*head, self._run(most - least, tail))

    def longest_run(self, tail: Expression) -> int:
        """How many characters the shared chain counts already."""
        return self._runs.get(tail, 0)

    def _run(self, most: int, tail: Expression) -> Expression:
        """Up to `most` characters and the tail: each rule one character, then the rule for one less."""
        if most == 0:
            return tail
        prefix = f"l{list(self._runs).index(tail) if tail in self._runs else len(self._runs)}_"
        for left in range(self._runs.get(tail, 0) + 1, most + 1):
            after: Expression = Rule(f"{prefix}{left - 1}") if left > 1 else tail
            options = (sequence(Chars(PLAIN), after), sequence(self.escape(), after), tail)
            self.grammar.define(f"{prefix}{left}", choice(*options))
        self._runs[tail] = max(most, self._runs.get(tail, 0))
        return Rule(f"{prefix}{most}")

    def any_key(self) -> Rule:
        """Any member name and its colon."""
        return self._once("key", lambda: sequence(self.any_string(), Literal(":")))

    def any_tail(self, tail: Expression) -> Rule:
        """The rest of a string that may go on in any way. Member names go on without escapes, which is cheaper."""
        if tail == Literal('"'):
            return self._free("rest", tail)
        return self._once("keyrest", lambda: sequence(repeat(Chars(PLAIN), 0, None), tail))

    def any_value(self) -> Rule:
        """Any JSON value, compact."""
        if "any" not in self.grammar.rules:
            self.grammar.rules["any"] = EMPTY
            self.grammar.define("any", self._any_value())
        return Rule("any")

    def any_object(self) -> Rule:
        """Any JSON object, compact."""
        member = sequence(self.any_key(), Rule("any"))
        self.any_value()
        return self._once("object", lambda: wrapped("{", listed(member, 0, None), "}"))

    def any_array(self) -> Rule:
        """Any JSON array, compact."""
        self.any_value()
        return self._once("array", lambda: wrapped("[", listed(Rule("any"), 0, None), "]"))

    def any_number(self) -> Rule:
        """Any JSON number (RFC 8259 §6)."""
        return self._once("number", _any_number)

    def _once(self, name: str, build: Builder) -> Rule:
        if name not in self.grammar.rules:
            self.grammar.define(name, build())
        return Rule(name)

    def _any_value(self) -> Expression:
        words = (Literal("true"), Literal("false"), Literal("null"))
        return choice(self.any_string(), self.any_number(), self.any_object(), self.any_array(), *words)


def quoted(content: Expression) -> Expression:
    """The content between quotation marks."""
    return sequence(Literal('"'), content, Literal('"'))


def wrapped(opening: str, content: Expression, closing: str) -> Expression:
    """The content between two brackets."""
    return sequence(Literal(opening), content, Literal(closing))


def listed(item: Expression, least: int, most: int | None) -> Expression:
    """`least` to `most` items with commas between them."""
    more = repeat(sequence(Literal(","), item), max(least - 1, 0), None if most is None else most - 1)
    if most == 0:
        return EMPTY if least == 0 else NOTHING
    filled = sequence(item, more)
    return repeat(filled, 0, 1) if least == 0 else filled


def _any_number() -> Expression:
    digit = Chars(DIGITS)
    whole = choice(Literal("0"), sequence(Chars(CodeSet.of((0x31, 0x39))), repeat(digit, 0, None)))
    fraction = sequence(Literal("."), repeat(digit, 1, None))
    exponent = sequence(Chars(CodeSet.of("eE")), repeat(Chars(CodeSet.of("+-")), 0, 1), repeat(digit, 1, None))
    return sequence(repeat(Literal("-"), 0, 1), whole, repeat(fraction, 0, 1), repeat(exponent, 0, 1))
