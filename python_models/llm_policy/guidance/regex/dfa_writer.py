"""Deterministic automata as grammar rules.

The rules are right-linear, one for each state that is not a link of a chain. In every place of a text the matcher is in
one of them, so their token masks are precomputed.
"""

from __future__ import annotations

from collections.abc import Callable

from llm_policy.guidance.grammar.code_set import EVERY_CODE, CodeSet
from llm_policy.guidance.grammar.grammar import EMPTY, NOTHING, Expression, Grammar, Rule, choice, one_of, sequence
from llm_policy.guidance.grammar.json_text import PLAIN, JsonText, character
from llm_policy.guidance.regex.dfa import Dfa


def string_expression(dfa: Dfa, text: JsonText, tail: Expression) -> Expression:
    """The strings of the automaton as JSON text without the opening quote; `tail` follows wherever one may end."""
    return _DfaWriter(dfa, text.grammar, character, tail, lambda: text.any_tail(tail)).expression()


def text_expression(dfa: Dfa, grammar: Grammar) -> Expression:
    """The texts of the automaton, at the end of the output."""
    return _DfaWriter(dfa, grammar, one_of, EMPTY, None).expression()


class _DfaWriter:
    """Writes one automaton; NOTHING if it accepts no text."""

    def __init__(
        self,
        dfa: Dfa,
        grammar: Grammar,
        write: Callable[[CodeSet], Expression],
        tail: Expression,
        any_tail: Callable[[], Rule] | None,
    ) -> None:
        """`any_tail` is any rest with its tail, if the grammar has a rule for it."""
        self._accepting = dfa.accepting
        self._grammar = grammar
        self._write = write
        self._tail = tail
        self._any_tail = any_tail
        self._prefix = f"a{len(grammar.rules)}_"
        self._rows = [_merged_by_target(row) for row in dfa.rows]
        self._num_sources = [0] * len(dfa.rows)
        for row in self._rows:
            for target in row:
                self._num_sources[target] += 1

    def expression(self) -> Expression:
        """The text from the start state on."""
        if not self._rows:
            return NOTHING
        for state, row in enumerate(self._rows):
            if row and not (self._is_link(state) or self._accepts_any_rest(state)):
                self._grammar.define(self._name(state), self._rule(state))
        start = choice(*self._endings(0))
        return choice(start, EMPTY) if self._tail == EMPTY and 0 in self._accepting else start

    def _name(self, state: int) -> str:
        return f"{self._prefix}{state}"

    def _is_link(self, state: int) -> bool:
        """Whether the state has one way in and one way out, so that it needs no rule of its own."""
        row = self._rows[state]
        return (
            state != 0
            and self._num_sources[state] == 1
            and len(row) == 1
            and state not in row
            and state not in self._accepting
        )

    def _accepts_any_rest(self, state: int) -> bool:
        """Whether the string may end here or go on with any characters."""
        row = self._rows[state]
        if self._any_tail is None or state not in self._accepting:
            return False
        return list(row) == [state] and row[state] in (EVERY_CODE, PLAIN)

    def _rule(self, state: int) -> Expression:
        # A rule that may match the empty text would leave the mask open after every character.
        options = [self._tail] if state in self._accepting and self._tail != EMPTY else []
        for target, codes in self._rows[state].items():
            options.extend(self._chains(codes, target))
        return choice(*options)

    def _chains(self, codes: CodeSet, target: int) -> list[Expression]:
        """A character of `codes`, then all links up to the next state with a rule, or the end."""
        parts = [self._write(codes)]
        while self._is_link(target):
            following, codes = next(iter(self._rows[target].items()))
            parts.append(self._write(codes))
            target = following
        return [sequence(*parts, ending) for ending in self._endings(target)]

    def _endings(self, state: int) -> list[Expression]:
        """What may follow in a state with a rule."""
        if self._any_tail is not None and self._accepts_any_rest(state):
            return [self._any_tail()]
        endings: list[Expression] = [Rule(self._name(state))] if self._rows[state] else []
        if state in self._accepting and (self._tail == EMPTY or not self._rows[state]):
            endings.append(self._tail)
        return endings


def _merged_by_target(row: tuple[tuple[CodeSet, int], ...]) -> dict[int, CodeSet]:
    merged: dict[int, CodeSet] = {}
    for codes, target in row:
        merged[target] = merged[target] | codes if target in merged else codes
    return merged
