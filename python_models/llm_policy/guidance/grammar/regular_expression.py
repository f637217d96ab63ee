"""Properties of regular expressions over named rules without recursion."""

from __future__ import annotations

from collections.abc import Mapping

from llm_policy.guidance.grammar.code_set import NO_CODE, CodeSet
from llm_policy.guidance.grammar.grammar import (
    NOTHING,
    Chars,
    Choice,
    Expression,
    Literal,
    Repeat,
    Rule,
    Sequence,
    choice,
    references,
    repeat,
    sequence,
)


class RegularRules:
    """Regular rules, each after those to which it refers."""

    def __init__(self, rules: Mapping[str, Expression]) -> None:
        self.rules: dict[str, Expression] = {}
        self._nullable: set[str] = set()
        self._first: dict[str, CodeSet] = {}
        for name, expression in rules.items():
            self.rules[name] = expression
            if self.is_nullable(expression):
                self._nullable.add(name)
                self.rules[_non_empty_name(name)] = self.non_empty(expression)

    def __contains__(self, name: object) -> bool:
        return name in self.rules

    def covers(self, expression: Expression) -> bool:
        """Whether the expression refers only to these rules."""
        return all(name in self.rules for name in references(expression))

    def is_nullable(self, expression: Expression) -> bool:
        """Whether it matches the empty text."""
        if isinstance(expression, Literal):
            return not expression.text
        if isinstance(expression, Rule):
            return expression.name in self._nullable
        if isinstance(expression, Sequence):
            return all(map(self.is_nullable, expression.parts))
        if isinstance(expression, Choice):
            return any(map(self.is_nullable, expression.options))
        if isinstance(expression, Repeat):
            return expression.min_count == 0 or self.is_nullable(expression.part)
        return False

    def non_empty(self, expression: Expression) -> Expression:
        """All matching texts but the empty one."""
        if not self.is_nullable(expression):
            return expression
        if isinstance(expression, Rule):
            return Rule(_non_empty_name(expression.name))
        if isinstance(expression, Sequence):
            return self._non_empty_sequence(expression)
        if isinstance(expression, Choice):
            return choice(*map(self.non_empty, expression.options))
        if isinstance(expression, Repeat):
            part = self.non_empty(expression.part)
            # a part may match the empty text, so fewer repeats are always possible
            more = None if expression.max_count is None else expression.max_count - 1
            return NOTHING if part == NOTHING else sequence(part, repeat(part, 0, more))
        return NOTHING

    def _non_empty_sequence(self, expression: Sequence) -> Expression:
        """The first part that matches some text, or else the empty one, which all parts match."""
        options: list[Expression] = []
        for i, part in enumerate(expression.parts):
            options.append(sequence(self.non_empty(part), *expression.parts[i + 1 :]))
        return choice(*(option for option in options if option != NOTHING))

    def first(self, expression: Expression) -> CodeSet:
        """The first characters of all matching texts."""
        if isinstance(expression, Literal):
            return CodeSet.of(expression.text[:1])
        if isinstance(expression, Chars):
            return expression.codes
        if isinstance(expression, Choice):
            return CodeSet.joined(map(self.first, expression.options))
        if isinstance(expression, Repeat):
            return self.first(expression.part)
        if isinstance(expression, Rule):
            return self._first_of_rule(expression.name)
        found = NO_CODE
        for part in expression.parts:
            found |= self.first(part)
            if not self.is_nullable(part):
                break
        return found

    def _first_of_rule(self, name: str) -> CodeSet:
        if not self._first:
            for each, expression in self.rules.items():  # in this order it needs no recursion
                self._first[each] = self.first(expression)
        return self._first[name]


def _non_empty_name(name: str) -> str:
    return f"{name}+"
