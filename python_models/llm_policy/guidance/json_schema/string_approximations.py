"""Approximations of one string's constraints, from the exact one to a single pattern without its counts.

Each accepts at least the strings that the constraints accept, and states what it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from llm_policy.guidance.json_schema.string_constraints import StringConstraints
from llm_policy.guidance.regex.cost import relaxed
from llm_policy.guidance.regex.syntax import RegexNode


class NumberedTree(NamedTuple):
    """The full-match tree of a source, by the source's number in its constraints."""

    source: int
    keyword: str
    tree: RegexNode


class Gap(NamedTuple):
    """A keyword that is not enforced; `source` is the number of its pattern, or None."""

    source: int | None
    keyword: str
    reason: str


@dataclass(frozen=True)
class Approximation:
    """What one automaton enforces, and what it leaves out."""

    trees: tuple[RegexNode, ...]
    min_length: int
    max_length: int | None
    excluded: frozenset[str]
    gaps: tuple[Gap, ...]


def approximations(
    trees: list[NumberedTree], constraints: StringConstraints, relaxed_ms: float
) -> Iterator[Approximation]:
    """The exact constraints, then without lengths, then with counts relaxed that cost over `relaxed_ms`, then fewer."""
    low, high, excluded = constraints.min_length, constraints.max_length, constraints.excluded
    has_length = (low, high) != (0, None)
    no_lengths = length_gaps(low, high, 0)
    for budget_ms in (None, relaxed_ms, 0.0) if trees else (None,):
        kept, gaps = _relaxed(trees, budget_ms)
        if budget_ms is not None and not gaps:
            continue
        yield Approximation(kept, low, high, excluded, tuple(gaps))
        if has_length:
            yield Approximation(kept, 0, None, excluded, (*gaps, *no_lengths))
    if trees:
        only = trees[:1]
        kept, gaps = _relaxed(only, 0.0)
        gaps = [*gaps, *dropped_gaps(trees[1:], constraints), *no_lengths]
        yield Approximation(kept, 0, None, frozenset(), tuple(gaps))


def length_gaps(low: int, high: int | None, kept_low: int) -> list[Gap]:
    """The gaps of lengths without a maximum and with `kept_low` as the minimum."""
    gaps = [] if high is None else [Gap(None, "maxLength", "counting so many characters costs too much")]
    if kept_low < low:
        gaps.append(Gap(None, "minLength", f"counting so many characters costs too much, enforced is {kept_low}"))
    return gaps


def dropped_gaps(trees: list[NumberedTree], constraints: StringConstraints) -> list[Gap]:
    """The gaps of patterns and excluded values that are not enforced at all."""
    gaps = [Gap(tree.source, tree.keyword, "too large for the engine") for tree in trees]
    if constraints.excluded:
        gaps.append(Gap(None, "not", "too many excluded values"))
    return gaps


def _relaxed(trees: list[NumberedTree], budget_ms: float | None) -> tuple[tuple[RegexNode, ...], list[Gap]]:
    if budget_ms is None:
        return tuple(tree.tree for tree in trees), []
    kept = tuple(relaxed(tree.tree, budget_ms) for tree in trees)
    gaps = [
        Gap(tree.source, tree.keyword, "its counts are only partly enforced")
        for tree, new in zip(trees, kept, strict=True)
        if new != tree.tree
    ]
    return kept, gaps
