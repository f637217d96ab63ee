"""A context-free grammar over lexemes: its rules refer to rules and lexemes only, and contain no text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from llm_policy.guidance.grammar.components import components
from llm_policy.guidance.grammar.grammar import (
    EMPTY,
    NOTHING,
    Choice,
    Expression,
    Repeat,
    Rule,
    Sequence,
    optional,
    references,
)
from llm_policy.guidance.grammar.regular_expression import RegularRules


@dataclass
class LexemeGrammar:
    """Rules over lexemes; a lexeme is a regular expression that does not match the empty text."""

    regular: RegularRules
    root: str
    rules: dict[str, Expression] = field(default_factory=dict)
    lexemes: dict[str, Expression] = field(default_factory=dict)
    sources: dict[str, list[Expression]] = field(default_factory=dict)
    """The expressions from which each lexeme was made; they may also match the empty text."""
    _names: dict[Expression, str] = field(default_factory=dict)

    def lexeme(self, expression: Expression) -> Expression:
        """A reference to the lexeme for a regular expression; optional if that matches the empty text."""
        text = self.regular.non_empty(expression)
        if text == NOTHING:
            return EMPTY
        if text not in self._names:
            self._names[text] = f"T{len(self._names)}"
            self.lexemes[self._names[text]] = text
        self.sources.setdefault(self._names[text], []).append(expression)
        reference = Rule(self._names[text])
        return optional(reference) if self.regular.is_nullable(expression) else reference


Lower = Callable[[Expression], Expression]


def build(
    regular: RegularRules,
    definitions: dict[str, Expression],
    root: str,
    lowering: Callable[[LexemeGrammar], Lower],
) -> LexemeGrammar:
    """The grammar of the root and all rules that the lowered expressions refer to."""
    grammar = LexemeGrammar(regular, root)
    lower = lowering(grammar)
    pending = [root]
    while pending:
        name = pending.pop()
        if name not in grammar.rules:
            grammar.rules[name] = lower(definitions[name])
            pending.extend(used for used in references(grammar.rules[name]) if used not in grammar.lexemes)
    return grammar


@dataclass(frozen=True)
class Follow:
    """For each lexeme the lexemes that may follow it, and those that may start a text, as bitmasks of indices."""

    names: tuple[str, ...]
    first: int
    follow: tuple[int, ...]


class FollowSets:
    """Computes `Follow` by iteration to a fixpoint; contexts of a rule are not distinguished."""

    def __init__(self, grammar: LexemeGrammar) -> None:
        self._grammar = grammar
        self._bits = {name: 1 << i for i, name in enumerate(grammar.lexemes)}
        self._nullable: set[str] = set()
        self._first: dict[str, int] = dict.fromkeys(grammar.rules, 0)
        self._after: dict[str, int] = dict.fromkeys([*grammar.lexemes, *grammar.rules], 0)
        edges = {
            name: [used for used in dict.fromkeys(references(expression)) if used in grammar.rules]
            for name, expression in grammar.rules.items()
        }
        self._order = [name for component in components(edges) for name in component]

    def result(self) -> Follow:
        """The fixpoint."""
        while sum(map(self._settle_first, self._order)):
            pass
        while sum(map(self._spread_rule, reversed(self._order))):
            pass
        follow = tuple(self._after[name] for name in self._grammar.lexemes)
        return Follow(tuple(self._grammar.lexemes), self._first[self._grammar.root], follow)

    def _settle_first(self, name: str) -> bool:
        """Compute the first lexemes of a rule; whether that changed something."""
        first, is_nullable = self._start(self._grammar.rules[name])
        if first == self._first[name] and is_nullable == (name in self._nullable):
            return False
        self._first[name] = first
        if is_nullable:
            self._nullable.add(name)
        return True

    def _start(self, expression: Expression) -> tuple[int, bool]:
        """First lexemes, and whether the expression matches no lexeme at all."""
        if isinstance(expression, Rule):
            bit = self._bits.get(expression.name)
            return (bit, False) if bit else (self._first[expression.name], expression.name in self._nullable)
        if isinstance(expression, Repeat):
            first, is_nullable = self._start(expression.part)
            return first, is_nullable or expression.min_count == 0
        if isinstance(expression, Choice):
            starts = [self._start(option) for option in expression.options]
            return union(start for start, _ in starts), any(is_nullable for _, is_nullable in starts)
        first = 0
        for start, is_nullable in map(self._start, _parts(expression)):
            first |= start
            if not is_nullable:
                return first, False
        return first, True

    def _spread_rule(self, name: str) -> bool:
        return self._spread(self._grammar.rules[name], self._after[name])

    def _spread(self, expression: Expression, after: int) -> bool:
        """Pass on what follows the expression; whether that is new for some rule."""
        if isinstance(expression, Rule):
            is_new = self._after[expression.name] | after != self._after[expression.name]
            self._after[expression.name] |= after
            return is_new and expression.name in self._first
        if isinstance(expression, Repeat):
            first, _ = self._start(expression.part)
            return self._spread(expression.part, after | (0 if expression.max_count == 1 else first))
        if isinstance(expression, Choice):
            return sum(self._spread(option, after) for option in expression.options) > 0
        is_new = False
        for part in reversed(_parts(expression)):
            is_new |= self._spread(part, after)
            first, is_nullable = self._start(part)
            after = first | after if is_nullable else first
        return is_new


def _parts(expression: Expression) -> tuple[Expression, ...]:
    if isinstance(expression, Sequence):
        return expression.parts
    raise TypeError("the rules of a lexeme grammar contain no text")


def union(masks: Iterable[int]) -> int:
    """All bits of all masks."""
    found = 0
    for mask in masks:
        found |= mask
    return found
