"""Reads a client's EBNF into a `Grammar`. The dialect is XGrammar's: GBNF with counted repeats.

    rule ::= alternative | "literal" [a-z^] name (group) atom* atom+ atom? atom{2,5}   # comment

The grammar is written anew for the engine, so that only constructs known to this reader reach it.
"""

from __future__ import annotations

import re

from llm_policy.guidance.grammar.code_set import LAST_CODE, CodeSet
from llm_policy.guidance.grammar.grammar import (
    Expression,
    Grammar,
    Literal,
    Rule,
    choice,
    one_of,
    repeat,
    sequence,
)
from llm_policy.guidance.limits import check_limit, invalid, too_complex
from llm_policy.release.guide_limits import GuideLimits

_TOKEN = re.compile(
    r"""(?P<blank>(?:[ \t]|\#[^\r\n]*)+)|(?P<newline>[\r\n]+)|(?P<define>[A-Za-z_][A-Za-z0-9_.-]*[ \t]*::=)"""
    r"""|(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)|(?P<literal>"(?:[^"\\\r\n]|\\.)*")|(?P<class>\[(?:[^\]\\\r\n]|\\.)*\])"""
    r"""|(?P<count>\{[ ]*\d{1,7}[ ]*(?:,[ ]*(?:\d{1,7})?[ ]*)?\})|(?P<mark>[()|*+?])"""
)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "a": "\a", "0": "\0", "e": "\x1b"}
_MARKS = {"*": (0, None), "+": (1, None), "?": (0, 1)}

Token = tuple[str, str]


def read_ebnf(text: str, limits: GuideLimits) -> Grammar:
    """The grammar with root `root`.

    Raises:
        InvalidRequest: `schema_invalid` or `schema_too_complex`.
    """
    return _Reader(_tokens(text), limits).grammar()


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise invalid(f"the grammar has an unknown token at character {position}")
        position = match.end()
        if match.lastgroup != "blank":
            tokens.append((str(match.lastgroup), match.group()))
    return tokens


class _Reader:
    """A recursive-descent parser; only groups recurse, and their depth is limited."""

    def __init__(self, tokens: list[Token], limits: GuideLimits) -> None:
        self._tokens = tokens
        self._limits = limits
        self._position = 0
        self._depth = 0

    def grammar(self) -> Grammar:
        grammar = Grammar("root")
        self._skip_newlines()
        while self._position < len(self._tokens):
            kind, text = self._next()
            if kind != "define":
                raise invalid("the grammar has text outside a rule")
            name = text.removesuffix("::=").rstrip()
            if name in grammar.rules:
                raise invalid("the grammar defines a rule twice")
            grammar.define(name, self._choice())
            check_limit("number of grammar rules", len(grammar.rules), self._limits.max_rules)
            self._skip_newlines()
        return grammar

    def _kind(self) -> str:
        return self._tokens[self._position][0] if self._position < len(self._tokens) else "end"

    def _is_mark(self, mark: str) -> bool:
        return self._position < len(self._tokens) and self._tokens[self._position] == ("mark", mark)

    def _next(self) -> Token:
        if self._position >= len(self._tokens):
            raise invalid("the grammar ends in the middle of a rule")
        self._position += 1
        return self._tokens[self._position - 1]

    def _skip_newlines(self) -> None:
        while self._kind() == "newline":
            self._position += 1

    def _skip_breaks(self) -> None:
        """Skip line ends inside a rule: any in a group, elsewhere those before a token other than a new rule."""
        ahead = self._position
        while ahead < len(self._tokens) and self._tokens[ahead][0] == "newline":
            ahead += 1
        is_continued = ahead < len(self._tokens) and self._tokens[ahead][0] != "define"
        if is_continued or self._depth:
            self._position = ahead

    def _choice(self) -> Expression:
        options = [self._sequence()]
        while self._is_mark("|"):
            self._next()
            options.append(self._sequence())
        return choice(*options)

    def _sequence(self) -> Expression:
        parts: list[Expression] = []
        self._skip_breaks()
        while self._kind() in ("name", "literal", "class") or self._is_mark("("):
            parts.append(self._quantified(self._atom()))
            self._skip_breaks()
        if not parts:
            raise invalid('the grammar has an empty alternative; write "" instead')
        return sequence(*parts)

    def _atom(self) -> Expression:
        kind, text = self._next()
        if kind == "name":
            return Rule(text)
        if kind == "literal":
            return Literal(_unescaped(text[1:-1]))
        if kind == "class":
            return _character_class(text[1:-1])
        self._depth += 1
        check_limit("nesting depth of the grammar", self._depth, self._limits.max_regex_depth)
        inner = self._choice()
        if not self._is_mark(")"):
            raise invalid("the grammar has a parenthesis that is not closed")
        self._next()
        self._depth -= 1
        return inner

    def _quantified(self, atom: Expression) -> Expression:
        if self._kind() == "count":
            min_count, max_count = _counts(self._next()[1])
            if max(min_count, max_count or 0) > self._limits.max_repeat:
                raise too_complex("repeat of the grammar", max(min_count, max_count or 0), self._limits.max_repeat)
            if max_count is not None and max_count < min_count:
                raise invalid("the grammar has a repeat whose maximum is below its minimum")
            atom = repeat(atom, min_count, max_count)
        elif self._kind() == "mark" and self._tokens[self._position][1] in _MARKS:
            atom = repeat(atom, *_MARKS[self._next()[1]])
        else:
            return atom
        if self._kind() == "count" or any(map(self._is_mark, _MARKS)):
            raise invalid("the grammar has a quantifier after a quantifier")
        return atom


def _counts(text: str) -> tuple[int, int | None]:
    min_count, comma, max_count = text.strip("{}").partition(",")
    if not comma:
        return int(min_count), int(min_count)
    return int(min_count), int(max_count) if max_count.strip() else None


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(_code(match)), text)


def _code(match: re.Match[str]) -> int:
    digits = match.group(1) or match.group(2) or match.group(3)
    code = int(digits, 16) if digits else ord(_LETTERS.get(match.group(4), match.group(4)))
    if code > LAST_CODE or 0xD800 <= code <= 0xDFFF:
        raise invalid("the grammar has an escape that is not a character")
    return code


def _character_class(text: str) -> Expression:
    negated = text.startswith("^")
    items = _class_items(text[1:] if negated else text)
    codes = CodeSet.of(*items)
    return one_of(~codes if negated else codes - CodeSet.of((0xD800, 0xDFFF)))


def _class_items(text: str) -> list[tuple[int, int]]:
    codes: list[tuple[int, bool]] = []
    position = 0
    while position < len(text):
        match = _ESCAPE.match(text, position)
        codes.append((_code(match), False) if match else (ord(text[position]), text[position] == "-"))
        position = match.end() if match else position + 1
    return _ranges(codes)


def _ranges(codes: list[tuple[int, bool]]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    i = 0
    while i < len(codes):
        low = high = codes[i][0]
        if i + 2 < len(codes) and codes[i + 1][1]:
            high = codes[i + 2][0]
            i += 2
        if high < low:
            raise invalid("the grammar has a character range that runs backwards")
        ranges.append((low, high))
        i += 1
    return ranges
