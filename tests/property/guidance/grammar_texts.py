"""Random small grammars, and texts that they match or nearly match."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from hypothesis import strategies as st

from llm_policy.guidance.grammar.code_set import CodeSet
from llm_policy.guidance.grammar.grammar import (
    EMPTY,
    Chars,
    Choice,
    Expression,
    Grammar,
    Literal,
    Repeat,
    Rule,
    choice,
    repeat,
    sequence,
    shortest_length,
)

ALPHABET = 'abx"éê:,'
"""é and ê share their first byte."""

_MAX_STEPS = 30
_MAX_EXTRA = 2

_literals = st.sampled_from(["a", "b", "ab", "ax", "x", "é", "ê", '"', '":', ","]).map(Literal)
_classes = st.sampled_from(
    [CodeSet.of("ab"), CodeSet.of("abx"), CodeSet.of("xé"), CodeSet.of("éê"), ~CodeSet.of("a"), ~CodeSet.of('"')]
).map(Chars)
_counts = st.sampled_from([(0, None), (1, None), (0, 1), (2, 2), (1, 3), (0, 2), (2, None)])


def _expressions(names: tuple[str, ...]) -> st.SearchStrategy[Expression]:
    rules: st.SearchStrategy[Expression] = st.sampled_from(names).map(Rule)
    leaves = st.one_of(_literals, _classes, rules, st.just(EMPTY))
    return st.recursive(leaves, _combined, max_leaves=5)


def _combined(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    several = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        several.map(lambda parts: sequence(*parts)),
        several.map(lambda options: choice(*options)),
        st.builds(lambda part, counts: repeat(part, *counts), inner, _counts),
    )


def _grammar(rules: dict[str, Expression]) -> Grammar:
    grammar = Grammar("root")
    grammar.rules.update(rules)
    return grammar


_any_grammars = st.fixed_dictionaries({name: _expressions(("root", "p", "q")) for name in ("root", "p", "q")}).map(
    _grammar
)
_regular_parts = st.recursive(st.one_of(_literals, _classes), _combined, max_leaves=3)
_right_linear_options = st.lists(
    st.one_of(
        st.builds(sequence, _regular_parts, st.sampled_from(["root", "p", "q"]).map(Rule)), _regular_parts, _literals
    ),
    min_size=1,
    max_size=3,
).map(lambda options: choice(*options))
_right_linear_grammars = st.fixed_dictionaries(dict.fromkeys(("root", "p", "q"), _right_linear_options)).map(_grammar)


def _bracketed(opening: str, inner: Expression, closing: str, tail: Expression, other: Expression) -> Grammar:
    """Nested brackets around any number of roots, with regular parts that may overlap the brackets."""
    nested = sequence(Literal(opening), inner, repeat(Rule("root"), 0, None), tail, Literal(closing))
    return _grammar({"root": choice(nested, other), "p": other})


_bracketed_grammars = st.builds(
    _bracketed,
    st.sampled_from(['"', "a", "[", "ab"]),
    st.one_of(_regular_parts, st.just(EMPTY)),
    st.sampled_from(["b", "]", "é", "x"]),
    st.one_of(_regular_parts, st.just(EMPTY)),
    st.one_of(_regular_parts, st.just(Rule("p"))).filter(lambda other: other != Rule("p")),
)
grammars = st.one_of(_any_grammars, _right_linear_grammars, _bracketed_grammars).filter(lambda g: g.prune())


class _Sampler:
    """Derives a text; after some steps it takes the shortest options."""

    def __init__(self, grammar: Grammar, seed: int) -> None:
        self._grammar = grammar
        self._shortest = grammar.shortest_lengths()
        # the shortest text of a rule needs only rules that were known before it
        self._ranks = {name: rank for rank, name in enumerate(self._shortest)}
        self._random = random.Random(seed)
        self._num_steps = 0

    def text(self, expression: Expression) -> str:
        self._num_steps += 1
        if isinstance(expression, Literal):
            return expression.text
        if isinstance(expression, Chars):
            members = [character for character in ALPHABET if ord(character) in expression.codes]
            members.extend(chr(low) for low, _ in expression.codes.ranges)
            return self._random.choice(members)
        if isinstance(expression, Rule):
            return self.text(self._grammar.rules[expression.name])
        if isinstance(expression, Choice):
            return self.text(self._option(expression))
        if isinstance(expression, Repeat):
            return "".join(self.text(expression.part) for _ in range(self._count(expression)))
        return "".join(map(self.text, expression.parts))

    def _option(self, expression: Choice) -> Expression:
        if self._num_steps > _MAX_STEPS:
            return min(expression.options, key=self._cost)
        return self._random.choice(expression.options)

    def _cost(self, expression: Expression) -> tuple[float, int]:
        """Length of the shortest text, and the latest rule that it needs."""
        if isinstance(expression, Rule):
            return self._shortest[expression.name], self._ranks[expression.name]
        if isinstance(expression, Choice):
            return min(map(self._cost, expression.options))
        if isinstance(expression, Repeat):
            length, latest = self._cost(expression.part) if expression.min_count else (0, -1)
            return length * expression.min_count, latest
        if isinstance(expression, Literal | Chars):
            return shortest_length(expression, {}), -1
        costs = [(0.0, -1), *map(self._cost, expression.parts)]
        return sum(length for length, _ in costs), max(latest for _, latest in costs)

    def _count(self, expression: Repeat) -> int:
        if self._num_steps > _MAX_STEPS:
            return expression.min_count
        most = expression.min_count + _MAX_EXTRA
        return self._random.randint(
            expression.min_count, most if expression.max_count is None else min(most, expression.max_count)
        )


def sample_text(grammar: Grammar, seed: int) -> str:
    """A text that the grammar matches."""
    return _Sampler(grammar, seed).text(Rule(grammar.root))


def _without(text: str, place: int) -> str:
    return text[:place] + text[place + 1 :]


def _with_inserted(character: str, text: str, place: int) -> str:
    return text[:place] + character + text[place:]


_changes: list[Callable[[str, int], str]] = [_without, *(partial(_with_inserted, character) for character in ALPHABET)]


def changed_text(text: str, seed: int) -> str:
    """The text with one character removed or inserted."""
    chooser = random.Random(seed)
    return chooser.choice(_changes)(text, chooser.randrange(len(text) + 1))
