"""`first (, next)*` over members in a fixed order, as a grammar that stays small and compiles fast.

After some member has been written the rest is a row of optional pieces. Before, one rule for each possible first
member is needed, because only the first has no comma. A long row is cut into groups of eight: XGrammar's token-mask
stage grows with the square of what one rule can skip (800 optional members: 3 s as one row, 0.4 s in groups).
"""

from __future__ import annotations

from dataclasses import dataclass

from llm_policy.guidance.grammar.grammar import (
    EMPTY,
    NOTHING,
    Expression,
    Grammar,
    Literal,
    choice,
    optional,
    repeat,
    sequence,
)
from llm_policy.guidance.grammar.json_text import listed

GROUP = 8
_COMMA = Literal(",")


@dataclass(frozen=True)
class Pair:
    """One declared member: its name, colon and value, and whether it must be there."""

    text: Expression
    required: bool

    def following(self) -> Expression:
        """The member after another one."""
        piece = sequence(_COMMA, self.text)
        return piece if self.required else optional(piece)


class MemberChain:
    """The members of one object: declared ones in order, then undeclared ones."""

    def __init__(self, grammar: Grammar, prefix: str, pairs: list[Pair], extra: Expression) -> None:
        self._grammar = grammar
        self._prefix = prefix
        self._extra = extra
        self._lead = next((i for i, pair in enumerate(pairs) if pair.required), len(pairs))
        self._pairs = [self._shared(i, pair) if i < self._lead else pair for i, pair in enumerate(pairs)]

    def expression(self, *, allow_empty: bool) -> Expression:
        """Everything between the braces."""
        after = self._define("x", repeat(sequence(_COMMA, self._extra), 0, None))
        starts = self._starts_without_lead(allow_empty=allow_empty)
        if self._lead < len(self._pairs):
            first, *rest = self._pairs[self._lead :]
            tail = self._row(rest, after)
            starts = [sequence(first.text, tail)]
            after = sequence(first.following(), tail)
        return self._starts(starts, self._define("y", after))

    def _shared(self, i: int, pair: Pair) -> Pair:
        return Pair(self._grammar.define(f"{self._prefix}k{i}", pair.text), pair.required)

    def _define(self, name: str, expression: Expression) -> Expression:
        if expression in (EMPTY, NOTHING):
            return expression
        return self._grammar.define(self._prefix + name, expression)

    def _starts_without_lead(self, *, allow_empty: bool) -> list[Expression]:
        if self._lead < len(self._pairs):
            return []
        starts = [listed(self._extra, 1, None)] if self._extra != NOTHING else []
        return [*starts, EMPTY] if allow_empty else starts

    def _row(self, pairs: list[Pair], after: Expression) -> Expression:
        """Members after another one, in groups that are rules of their own."""
        groups = [pairs[i : i + GROUP] for i in range(0, len(pairs), GROUP)]
        texts = [sequence(*(pair.following() for pair in group)) for group in groups]
        if len(texts) > 2:
            texts = [self._define(f"g{i}", text) for i, text in enumerate(texts)]
        return sequence(*texts, after)

    def _starts(self, starts: list[Expression], after: Expression) -> Expression:
        """The optional members before the first required one, from the last group to the first."""
        found = choice(*starts) if starts else NOTHING
        for low in reversed(range(0, self._lead, GROUP)):
            group = self._pairs[low : min(low + GROUP, self._lead)]
            first = choice(
                *(sequence(pair.text, *(p.following() for p in group[i + 1 :])) for i, pair in enumerate(group))
            )
            found = _choices(sequence(first, after), found)
            if low:
                found = self._define(f"s{low}", found)
                after = self._define(f"r{low}", sequence(*(pair.following() for pair in group), after))
        return found


def _choices(*options: Expression) -> Expression:
    kept = [option for option in options if option != NOTHING]
    return choice(*kept) if kept else NOTHING
