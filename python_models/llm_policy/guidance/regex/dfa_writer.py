"""Deterministic automata as grammar rules over JSON text."""

from __future__ import annotations

from llm_policy.guidance.grammar.code_set import EVERY_CODE, CodeSet
from llm_policy.guidance.grammar.grammar import Expression, Rule, choice, sequence
from llm_policy.guidance.grammar.json_text import PLAIN, JsonText, character
from llm_policy.guidance.regex.dfa import Dfa


class DfaWriter:
    """Writes one automaton as right-linear rules; `tail` follows wherever a string may end."""

    def __init__(self, dfa: Dfa, text: JsonText, tail: Expression) -> None:
        self._accepting = dfa.accepting
        self._text = text
        self._tail = tail
        self._prefix = f"a{len(text.grammar.rules)}_"
        self._rows = [_merged_by_target(row) for row in dfa.rows]
        self._num_sources = [0] * len(dfa.rows)
        for row in self._rows:
            for target in row:
                self._num_sources[target] += 1

    def expression(self) -> Expression:
        """The start state; NOTHING if the automaton accepts no string."""
        if not self._rows:
            return choice()
        for state in range(len(self._rows)):
            if state == 0 or not (self._is_link(state) or self._accepts_any_rest(state)):
                self._text.grammar.define(self._name(state), self._rule(state))
        return Rule(self._name(0))

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

    def _rule(self, state: int) -> Expression:
        row = dict(self._rows[state])
        loop = row.pop(state, None)
        options = [self._tail] if state in self._accepting else []
        options.extend(self._chain(codes, target) for target, codes in row.items())
        if loop is not None:
            options.append(sequence(character(loop), Rule(self._name(state))))
        return choice(*options)

    def _accepts_any_rest(self, state: int) -> bool:
        """Whether the string may end here or go on with any characters."""
        row = self._rows[state]
        return state in self._accepting and list(row) == [state] and row[state] in (EVERY_CODE, PLAIN)

    def _reference(self, state: int) -> Rule:
        return self._text.any_tail(self._tail) if self._accepts_any_rest(state) else Rule(self._name(state))

    def _chain(self, codes: CodeSet, target: int) -> Expression:
        """A character of `codes`, then all links up to the next state with a rule."""
        parts = [character(codes)]
        while self._is_link(target):
            following, codes = next(iter(self._rows[target].items()))
            parts.append(character(codes))
            target = following
        return sequence(*parts, self._reference(target))


def _merged_by_target(row: tuple[tuple[CodeSet, int], ...]) -> dict[int, CodeSet]:
    merged: dict[int, CodeSet] = {}
    for codes, target in row:
        merged[target] = merged[target] | codes if target in merged else codes
    return merged
