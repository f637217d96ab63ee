"""Splits a grammar of JSON text into the tokens of JSON.

A lexeme is a string (with the colon after it, if it is a member name), a number, a word, one punctuation mark, or a
choice of these. A small scanner follows each expression; a grammar whose lexemes it can't separate raises `NotJson`.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache

from llm_policy.guidance.grammar.code_set import DIGITS, CodeSet
from llm_policy.guidance.grammar.grammar import (
    Chars,
    Choice,
    Expression,
    Literal,
    Repeat,
    Rule,
    Sequence,
    choice,
    repeat,
    sequence,
)
from llm_policy.guidance.grammar.lexeme_grammar import Follow, LexemeGrammar
from llm_policy.guidance.grammar.regular_expression import RegularRules


class NotJson(Exception):
    """The grammar can't be split into JSON tokens."""


class _State(IntEnum):
    """Of the scanner, inside of one token."""

    START = 0
    STRING = 1
    ESCAPE = 2
    STRING_END = 3
    KEY_END = 4
    NUMBER = 5
    WORD = 6
    MARK = 7
    DEAD = 8


_START = 1 << _State.START
_DEAD = 1 << _State.DEAD
_ENDS = sum(1 << state for state in (_State.STRING_END, _State.KEY_END, _State.NUMBER, _State.WORD, _State.MARK))
_STATES = tuple(range(len(_State)))

_EXPONENT = CodeSet.of("eE")
_CLASSES = {
    "quote": CodeSet.of('"'),
    "backslash": CodeSet.of("\\"),
    "colon": CodeSet.of(":"),
    "mark": CodeSet.of("{}[],"),
    "number": DIGITS | CodeSet.of("+-."),
    "exponent": _EXPONENT,
    "letter": CodeSet.of((0x61, 0x7A)) - _EXPONENT,
}
_OTHER = "other"
_CLASS_OF = {chr(code): name for name, codes in _CLASSES.items() for code in range(128) if code in codes}
_EVERY_CLASS = CodeSet.joined(_CLASSES.values())

_OUTSIDE = {
    _State.START: {
        "quote": _State.STRING,
        "colon": _State.MARK,
        "mark": _State.MARK,
        "number": _State.NUMBER,
        "exponent": _State.WORD,
        "letter": _State.WORD,
    },
    _State.STRING_END: {"colon": _State.KEY_END},
    _State.NUMBER: {"number": _State.NUMBER, "exponent": _State.NUMBER},
    _State.WORD: {"letter": _State.WORD, "exponent": _State.WORD},
}
_STRING_STEPS = {"quote": _State.STRING_END, "backslash": _State.ESCAPE}


def _step(state: int, character_class: str) -> int:
    if state == _State.STRING:
        return _STRING_STEPS.get(character_class, _State.STRING)
    if state == _State.ESCAPE:
        return _State.STRING
    return _OUTSIDE.get(_State(state), {}).get(character_class, _State.DEAD)


_STEPS = {name: tuple(_step(state, name) for state in _STATES) for name in (*_CLASSES, _OTHER)}
_STEPS_OF = {character: _STEPS[name] for character, name in _CLASS_OF.items()}

Ends = tuple[int, ...]
"""For each state the set of states, as a bitmask, in which the scanner may be after an expression."""

_SAME: Ends = tuple(1 << state for state in _STATES)


def _after(ends: Ends, states: int) -> int:
    found = 0
    for state in _STATES:
        if states >> state & 1:
            found |= ends[state]
    return found


@lru_cache(maxsize=4096)  # a grammar has few different ones
def _then(first: Ends, second: Ends) -> Ends:
    return tuple(_after(second, states) for states in first)


@lru_cache(maxsize=4096)
def _either(first: Ends, second: Ends) -> Ends:
    return tuple(a | b for a, b in zip(first, second, strict=True))


@lru_cache(maxsize=4096)
def _repeated(part: Ends, min_count: int) -> Ends:
    """Counts above one are treated as unlimited, which only adds states."""
    ends = _SAME
    while (more := _either(ends, _then(ends, part))) != ends:
        ends = more
    return ends if min_count == 0 else _then(part, ends)


class _Scanner:
    """Follows expressions of regular rules."""

    def __init__(self, regular: RegularRules) -> None:
        self._rules: dict[str, Ends] = {}
        self._literals: dict[str, Ends] = {}
        self._classes: dict[CodeSet, Ends] = {}
        for name, expression in regular.rules.items():
            self._rules[name] = self.ends(expression)

    def ends(self, expression: Expression) -> Ends:
        """Where the scanner may be after the expression."""
        if isinstance(expression, Literal):
            return self._literal(expression.text)
        if isinstance(expression, Chars):
            return self._characters(expression.codes)
        if isinstance(expression, Rule):
            return self._rules[expression.name]
        if isinstance(expression, Repeat):
            return _repeated(self.ends(expression.part), min(expression.min_count, 1))
        ends = _SAME if isinstance(expression, Sequence) else (0,) * len(_STATES)
        items = expression.parts if isinstance(expression, Sequence) else expression.options
        combine = _then if isinstance(expression, Sequence) else _either
        for item in items:
            ends = combine(ends, self.ends(item))
        return ends

    def _literal(self, text: str) -> Ends:
        if text not in self._literals:
            self._literals[text] = tuple(1 << _scan(state, text) for state in _STATES)
        return self._literals[text]

    def _characters(self, codes: CodeSet) -> Ends:
        if codes not in self._classes:
            names = [name for name, members in _CLASSES.items() if codes & members]
            names.extend([_OTHER] if codes - _EVERY_CLASS else [])
            masks = [0] * len(_STATES)
            for name in names:
                for state in _STATES:
                    masks[state] |= 1 << _STEPS[name][state]
            self._classes[codes] = tuple(masks)
        return self._classes[codes]


def _scan(state: int, text: str) -> int:
    for character in text:
        state = _STEPS_OF.get(character, _STEPS[_OTHER])[state]
        if state == _State.DEAD:
            return state
    return state


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*(?:":?)?|[-+.0-9][-+.0-9eE]*|[a-z]+|.', re.DOTALL)
_STRING_REST = re.compile(r'(?:[^"\\]|\\.)*(?:":?)?|.', re.DOTALL)


class JsonLexemes:
    """Lowers the rules of one grammar."""

    def __init__(self, grammar: LexemeGrammar) -> None:
        self._grammar = grammar
        self._regular = grammar.regular
        self._scanner = _Scanner(grammar.regular)

    def lower(self, expression: Expression) -> Expression:
        """The expression over lexemes.

        Raises:
            NotJson: its tokens can't be separated.
        """
        if self._is_token(expression):
            return self._grammar.lexeme(expression)
        if isinstance(expression, Rule):
            return expression
        if isinstance(expression, Choice):
            tokens = [option for option in expression.options if self._is_token(option)]
            others = [self.lower(option) for option in expression.options if not self._is_token(option)]
            return choice(*([self._grammar.lexeme(choice(*tokens))] if tokens else []), *others)
        if isinstance(expression, Repeat):
            return repeat(self.lower(expression.part), expression.min_count, expression.max_count)
        if isinstance(expression, Chars):
            raise NotJson
        return _Splitter(self, self._scanner, self._regular, self._grammar).split(
            expression.parts if isinstance(expression, Sequence) else (expression,)
        )

    def _is_token(self, expression: Expression) -> bool:
        if not self._regular.covers(expression):
            return False
        return not self._scanner.ends(expression)[_State.START] & ~(_ENDS | _START)

    def is_exact(self, follow: Follow) -> bool:
        """Whether no lexeme can go on with the first character of a lexeme that may follow it."""
        ends = [self._scanner.ends(self._grammar.lexemes[name])[_State.START] for name in follow.names]
        starts = [self._regular.first(self._grammar.lexemes[name]) for name in follow.names]
        start_kinds: dict[CodeSet, int] = {}
        for i, codes in enumerate(starts):
            start_kinds[codes] = start_kinds.get(codes, 0) | 1 << i
        for states, after in zip(ends, follow.follow, strict=True):
            for codes, members in start_kinds.items():
                if members & after and _after(self._scanner.ends(Chars(codes)), states) & ~_DEAD:
                    return False
        return True


class _Splitter:
    """Splits one sequence: collects parts until the next one can't continue the token."""

    def __init__(self, lexemes: JsonLexemes, scanner: _Scanner, regular: RegularRules, grammar: LexemeGrammar) -> None:
        self._lexemes = lexemes
        self._scanner = scanner
        self._regular = regular
        self._grammar = grammar
        self._done: list[Expression] = []
        self._token: list[Expression] = []
        self._states = _START

    def split(self, parts: tuple[Expression, ...]) -> Expression:
        """The sequence over lexemes."""
        for part in parts:
            if isinstance(part, Literal):
                self._add_text(part.text)
            elif self._regular.covers(part):
                self._add(part)
            else:
                self._end_token()
                self._done.append(self._lexemes.lower(part))
        self._end_token()
        return sequence(*self._done)

    def _add_text(self, text: str) -> None:
        position = 0
        while position < len(text):
            piece = self._next_piece(text, position)
            self._add(Literal(piece))
            position += len(piece)

    def _next_piece(self, text: str, position: int) -> str:
        """A whole token or the rest of a string where the state is known, else one character."""
        pattern = _STRING_REST if self._states == 1 << _State.STRING else _TOKEN
        is_known = pattern is _STRING_REST or not self._states & ~(_ENDS | _START)
        match = pattern.match(text, position) if is_known else None
        return match.group() if match and match.group() else text[position]

    def _add(self, part: Expression) -> None:
        states = _after(self._scanner.ends(part), self._states)
        if states & _DEAD and self._token:
            self._end_token()
            states = _after(self._scanner.ends(part), self._states)
        if states & _DEAD:
            if isinstance(part, Literal | Chars):
                raise NotJson
            self._done.append(self._lexemes.lower(part))
            return
        self._token.append(part)
        self._states = states

    def _end_token(self) -> None:
        if self._token:
            if self._states & ~(_ENDS | _START):
                raise NotJson
            self._done.append(self._grammar.lexeme(sequence(*self._token)))
        self._token = []
        self._states = _START
