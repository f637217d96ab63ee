"""`first (, next)*` over members in a fixed order, as a small grammar that compiles fast.

After the first member the rest is a sequence of optional members. For the first member there is one alternative per
candidate, because only the first has no comma. Long sequences are split into groups of eight: XGrammar's token-mask
stage is quadratic in the number of members that one rule can skip (800 optional members: 3 s in one rule, 0.4 s in
groups).
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

GROUP_SIZE = 8
_COMMA = Literal(",")


@dataclass(frozen=True)
class Member:
    """One declared member: its name, colon and value, and whether it is required."""

    text: Expression
    is_required: bool

    def following(self) -> Expression:
        """The member after another one: with its comma, and optional unless it is required."""
        member = sequence(_COMMA, self.text)
        return member if self.is_required else optional(member)


class MemberChain:
    """The members of one object: the declared ones in order, then undeclared ones (`extra`)."""

    def __init__(self, grammar: Grammar, prefix: str, members: list[Member], extra: Expression) -> None:
        self._grammar = grammar
        self._prefix = prefix
        self._extra = extra
        self._first_required = next((i for i, member in enumerate(members) if member.is_required), len(members))
        self._members = [
            self._shared(i, member) if i < self._first_required else member for i, member in enumerate(members)
        ]

    def expression(self, *, allow_empty: bool) -> Expression:
        """Everything between the braces."""
        after = self._define("x", repeat(sequence(_COMMA, self._extra), 0, None))
        starts = self._starts_without_required(allow_empty=allow_empty)
        if self._first_required < len(self._members):
            first, *rest = self._members[self._first_required :]
            tail = self._sequence_of_groups(rest, after)
            starts = [sequence(first.text, tail)]
            after = sequence(first.following(), tail)
        return self._optional_starts(starts, self._define("y", after))

    def _shared(self, i: int, member: Member) -> Member:
        return Member(self._grammar.define(f"{self._prefix}k{i}", member.text), member.is_required)

    def _define(self, name: str, expression: Expression) -> Expression:
        if expression in (EMPTY, NOTHING):
            return expression
        return self._grammar.define(self._prefix + name, expression)

    def _starts_without_required(self, *, allow_empty: bool) -> list[Expression]:
        if self._first_required < len(self._members):
            return []
        starts = [listed(self._extra, 1, None)] if self._extra != NOTHING else []
        return [*starts, EMPTY] if allow_empty else starts

    def _sequence_of_groups(self, members: list[Member], after: Expression) -> Expression:
        """Members after another one, in groups with a rule each."""
        groups = [members[i : i + GROUP_SIZE] for i in range(0, len(members), GROUP_SIZE)]
        texts = [sequence(*(member.following() for member in group)) for group in groups]
        if len(texts) > 2:
            texts = [self._define(f"g{i}", text) for i, text in enumerate(texts)]
        return sequence(*texts, after)

    def _optional_starts(self, starts: list[Expression], after: Expression) -> Expression:
        """The optional members before the first required one, built from the last group to the first."""
        content = choice(*starts)
        for low in reversed(range(0, self._first_required, GROUP_SIZE)):
            group = self._members[low : min(low + GROUP_SIZE, self._first_required)]
            first = choice(
                *(
                    sequence(member.text, *(later.following() for later in group[i + 1 :]))
                    for i, member in enumerate(group)
                )
            )
            content = choice(sequence(first, after), content)
            if low:
                content = self._define(f"s{low}", content)
                after = self._define(f"r{low}", sequence(*(member.following() for member in group), after))
        return content
