"""A reference matcher for grammars: slow, and too simple to be wrong in the same way as a writer."""

from __future__ import annotations

from llm_policy.guidance.grammar.grammar import Chars, Choice, Expression, Grammar, Literal, Repeat, Rule


class GrammarMatcher:
    """Computes for every rule and start in a text where a match can end, by iteration to a fixpoint."""

    def __init__(self, grammar: Grammar, text: str) -> None:
        self._grammar = grammar
        self._text = text
        self._known: dict[tuple[str, int], frozenset[int]] = {}

    def matches(self) -> bool:
        """Whether the grammar matches the whole text."""
        while True:
            before = dict(self._known)
            found = self._ends(Rule(self._grammar.root), 0)
            for name, start in before:
                self._known[name, start] = self._ends(self._grammar.rules[name], start)
            if self._known == before:
                return len(self._text) in found

    def _ends(self, expression: Expression, start: int) -> frozenset[int]:
        if isinstance(expression, Rule):
            return self._known.setdefault((expression.name, start), frozenset())
        if isinstance(expression, Literal):
            matched = self._text.startswith(expression.text, start)
            return frozenset([start + len(expression.text)] if matched else [])
        if isinstance(expression, Chars):
            matched = start < len(self._text) and ord(self._text[start]) in expression.codes
            return frozenset([start + 1] if matched else [])
        if isinstance(expression, Choice):
            return frozenset(end for option in expression.options for end in self._ends(option, start))
        if isinstance(expression, Repeat):
            return self._repeat_ends(expression, start)
        ends = frozenset([start])
        for part in expression.parts:
            ends = frozenset(end for place in ends for end in self._ends(part, place))
        return ends

    def _repeat_ends(self, expression: Repeat, start: int) -> frozenset[int]:
        """Ends after the minimum, and after every further repeat that reaches a new place."""
        ends = frozenset([start])
        for _ in range(expression.min_count):
            ends = frozenset(end for place in ends for end in self._ends(expression.part, place))
        latest = ends
        num_left = len(self._text) + 1
        if expression.max_count is not None:
            num_left = min(num_left, expression.max_count - expression.min_count)
        for _ in range(num_left):
            latest = frozenset(end for place in latest for end in self._ends(expression.part, place))
            ends |= latest
        return ends
