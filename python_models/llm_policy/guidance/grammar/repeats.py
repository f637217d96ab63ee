"""Rewrites counted repeats so that every version of XGrammar compiles them fast.

XGrammar copies a bare character class once per count (200 copies: 6 s), so the class becomes a rule with two options,
which XGrammar counts instead. Large counts become blocks of 64, blocks of blocks and a remainder: older versions copy
the counted part (5,000 copies: 3 s), newer versions match in time quadratic in the count. The grammar matches exactly
the same texts.

Token masks are fast if the counted part is longer than most tokens: below 0.4 ms for up to 5,000 items of an array. A
part of one character ends within nearly every token, and its masks take 100 ms; the planner writes such a count as an
automaton, and only a guide that is too large for that gets here with one.
"""

from __future__ import annotations

from llm_policy.guidance.grammar.grammar import (
    EMPTY,
    Chars,
    Choice,
    Expression,
    Grammar,
    Literal,
    Repeat,
    Rule,
    Sequence,
    choice,
    repeat,
    sequence,
)

BLOCK = 64
_MAX_COPIES = 4


def lower_repeats(grammar: Grammar, *, copy_classes: bool) -> None:
    """Rewrite every counted repeat of the grammar in place; adds rules for blocks.

    With `copy_classes` a repeat of a bare class stays: its compile time was budgeted, and its token masks are fast.
    """
    _Lowering(grammar, copy_classes=copy_classes).run()


class _Lowering:
    def __init__(self, grammar: Grammar, *, copy_classes: bool) -> None:
        self._grammar = grammar
        self._copy_classes = copy_classes
        self._counted: dict[Expression, Expression] = {}
        self._blocks: dict[Expression, Rule] = {}

    def run(self) -> None:
        for name, expression in list(self._grammar.rules.items()):
            self._grammar.rules[name] = self._lowered(expression)

    def _lowered(self, expression: Expression) -> Expression:
        if isinstance(expression, Sequence):
            return sequence(*map(self._lowered, expression.parts))
        if isinstance(expression, Choice):
            return choice(*map(self._lowered, expression.options)) if expression.options else expression
        if isinstance(expression, Repeat):
            return self._repeat(expression)
        return expression

    def _repeat(self, expression: Repeat) -> Expression:
        part, min_count, max_count = expression.part, expression.min_count, expression.max_count
        if max(min_count, max_count or 0) <= _MAX_COPIES or (self._copy_classes and isinstance(part, Chars)):
            return Repeat(self._lowered(part), min_count, max_count)
        part = self._countable(part)
        if max_count is None:
            return sequence(self._exactly(part, min_count), repeat(part, 0, None))
        return sequence(self._exactly(part, min_count), self._up_to(part, max_count - min_count))

    def _countable(self, part: Expression) -> Expression:
        """A form of the part that XGrammar counts and does not copy."""
        if part not in self._counted:
            self._counted[part] = self._build_countable(part)
        return self._counted[part]

    def _build_countable(self, part: Expression) -> Expression:
        inner = self._grammar.rules.get(part.name, part) if isinstance(part, Rule) else part
        if isinstance(inner, Chars) and inner.codes.size() > 1:
            inner = Choice(tuple(Chars(half) for half in inner.codes.halves()))
        elif isinstance(inner, Rule | Literal) or isinstance(part, Rule):
            return part
        return self._grammar.define(
            f"q{len(self._counted)}", inner if isinstance(inner, Choice) else self._lowered(inner)
        )

    def _exactly(self, part: Expression, count: int) -> Expression:
        if count < 2 * BLOCK:
            return repeat(part, count, count)
        blocks, rest = divmod(count, BLOCK)
        return sequence(self._exactly(self._block(part), blocks), repeat(part, rest, rest))

    def _up_to(self, part: Expression, count: int) -> Expression:
        """Zero to `count` parts: blocks, then fewer than two blocks of single parts."""
        if count < 2 * BLOCK:
            return repeat(part, 0, count) if count else EMPTY
        blocks, rest = divmod(count, BLOCK)
        return sequence(self._up_to(self._block(part), blocks - 1), repeat(part, 0, BLOCK + rest))

    def _block(self, part: Expression) -> Rule:
        if part not in self._blocks:
            self._blocks[part] = self._grammar.define(f"b{len(self._blocks)}", repeat(part, BLOCK, BLOCK))
        return self._blocks[part]
