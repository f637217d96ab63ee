"""Regex trees and automata as grammar expressions over JSON text."""

from __future__ import annotations

from collections.abc import Callable

from llm_policy.guidance.grammar.code_set import EVERY_CODE, CodeSet
from llm_policy.guidance.grammar.grammar import (
    Chars,
    Choice,
    Expression,
    Repeat,
    Rule,
    Sequence,
    choice,
    optional,
    repeat,
    sequence,
)
from llm_policy.guidance.grammar.json_text import PLAIN, JsonText, character, run
from llm_policy.guidance.regex.automaton import StateTable
from llm_policy.guidance.regex.syntax import Concat, Either, Loop, Match, RegexNode

WriteCharacter = Callable[[CodeSet], Expression]

EMPTY_TEXT: Expression = sequence()


def pattern_expression(node: RegexNode, write: WriteCharacter = character) -> Expression:
    """A full-match tree, without quotes, each character written by `write`. Gaps match the empty text."""
    if isinstance(node, Match):
        return write(node.codes)
    if isinstance(node, Concat):
        return sequence(*(pattern_expression(part, write) for part in node.parts))
    if isinstance(node, Either):
        return choice(*(pattern_expression(option, write) for option in node.options))
    if isinstance(node, Loop):
        if isinstance(node.part, Match) and node.most is None and write is character:
            return sequence(*[character(node.part.codes)] * node.least, run(node.part.codes))
        return repeat(pattern_expression(node.part, write), node.least, node.most)
    return EMPTY_TEXT


def written_out(expression: Expression) -> Expression:
    """The expression with its counts as copies in place, except those of a bare class, which XGrammar copies itself."""
    if isinstance(expression, Sequence):
        return sequence(*map(written_out, expression.parts))
    if isinstance(expression, Choice):
        return choice(*map(written_out, expression.options)) if expression.options else expression
    if not isinstance(expression, Repeat) or isinstance(expression.part, Chars):
        return expression
    part, least, most = written_out(expression.part), expression.least, expression.most
    if max(least, most or 0) <= 1:
        return Repeat(part, least, most)
    tail = repeat(part, 0, None) if most is None else EMPTY_TEXT
    for _ in range(0 if most is None else most - least):
        tail = optional(sequence(part, tail))
    return sequence(*[part] * least, tail)


class TableText:
    """Writes a finished automaton as right-linear rules; `tail` follows wherever a string may end."""

    def __init__(self, table: StateTable, text: JsonText, tail: Expression) -> None:
        self._table = table
        self._text = text
        self._tail = tail
        self._prefix = f"a{len(text.grammar.rules)}_"
        self._moves = [_merged(row) for row in table.moves]
        self._arrivals = [0] * len(table.moves)
        for row in self._moves:
            for target in row:
                self._arrivals[target] += 1

    def expression(self) -> Expression:
        """The start state; NOTHING when the automaton accepts no string."""
        if not self._table.moves:
            return choice()
        for state in range(len(self._moves)):
            if state == 0 or not (self._is_link(state) or self._is_free(state)):
                self._text.grammar.define(self._name(state), self._rule(state))
        return Rule(self._name(0))

    def _name(self, state: int) -> str:
        return f"{self._prefix}{state}"

    def _is_link(self, state: int) -> bool:
        """A state that is only passed through, so it needs no rule of its own."""
        row = self._moves[state]
        return (
            state != 0
            and self._arrivals[state] == 1
            and len(row) == 1
            and state not in row
            and state not in self._table.accepting
        )

    def _rule(self, state: int) -> Expression:
        row = dict(self._moves[state])
        loop = row.pop(state, None)
        options = [self._tail] if state in self._table.accepting else []
        options.extend(self._chain(codes, target) for target, codes in row.items())
        if loop is not None:
            options.append(sequence(character(loop), Rule(self._name(state))))
        return choice(*options)

    def _is_free(self, state: int) -> bool:
        """Any character from here on leads back here, and the string may end."""
        row = self._moves[state]
        return state in self._table.accepting and list(row) == [state] and row[state] in (EVERY_CODE, PLAIN)

    def _follow(self, state: int) -> Rule:
        return self._text.any_tail(self._tail) if self._is_free(state) else Rule(self._name(state))

    def _chain(self, codes: CodeSet, target: int) -> Expression:
        parts = [character(codes)]
        while self._is_link(target):
            following, codes = next(iter(self._moves[target].items()))
            parts.append(character(codes))
            target = following
        return sequence(*parts, self._follow(target))


def _merged(row: tuple[tuple[CodeSet, int], ...]) -> dict[int, CodeSet]:
    by_target: dict[int, CodeSet] = {}
    for codes, target in row:
        by_target[target] = by_target[target] | codes if target in by_target else codes
    return by_target
