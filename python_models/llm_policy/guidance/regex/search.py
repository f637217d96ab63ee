"""Rewrites a search as a full match.

JSON Schema's patterns are searches (2020-12 Validation §6.3.3): without anchors, any text may precede and follow the
match. `full_match` removes the anchors and adds "any text" at each end without one.
"""

from __future__ import annotations

from llm_policy.guidance.regex.syntax import (
    ANYTHING,
    Alternation,
    Anchor,
    Concat,
    Match,
    RegexNode,
    Repetition,
    Unsupported,
)

BROAD = 256
"""A character set larger than this is broad: it contains most characters that a model may write."""
MAX_BRANCHES = 64
"""Limit of branches with their own anchors, such as `^a|b$`."""


def full_match(node: RegexNode) -> RegexNode:
    """The tree that matches a whole string if and only if a search for `node` finds a match in it.

    Anchors that can't be removed become `Unsupported`.
    """
    options = tuple(_without_anchors(branch) for branch in _branches(node))
    return options[0] if len(options) == 1 else Alternation(options)


def _has_anchor(node: RegexNode) -> bool:
    if isinstance(node, Concat):
        return any(map(_has_anchor, node.parts))
    if isinstance(node, Alternation):
        return any(map(_has_anchor, node.options))
    return _has_anchor(node.part) if isinstance(node, Repetition) else isinstance(node, Anchor)


def _branches(node: RegexNode) -> list[list[RegexNode]]:
    """The alternatives as sequences whose anchors are direct members."""
    if not _has_anchor(node):
        return [[node]]
    if isinstance(node, Alternation):
        return [branch for option in node.options for branch in _branches(option)]
    if not isinstance(node, Concat):
        return [[Unsupported("an anchor inside a repeat") if isinstance(node, Repetition) else node]]
    branches: list[list[RegexNode]] = [[]]
    for part in node.parts:
        inner = _branches(part)
        if len(branches) * len(inner) > MAX_BRANCHES:
            inner = [[Unsupported("too many branches with anchors"), ANYTHING]]
        branches = [head + tail for head in branches for tail in inner]
    return branches


def _without_anchors(parts: list[RegexNode]) -> RegexNode:
    """One branch without its outer anchors; an end that had none gets ANYTHING."""
    start, end = 0, len(parts)
    while start < end and parts[start] == Anchor("^"):
        start += 1
    while end > start and parts[end - 1] == Anchor("$"):
        end -= 1
    middle = [Unsupported("an anchor in the middle") if isinstance(part, Anchor) else part for part in parts[start:end]]
    before = [] if start else [ANYTHING]
    after = [] if end < len(parts) else [ANYTHING]
    return Concat((*before, *middle, *after))


def length_range(node: RegexNode) -> tuple[int, int | None]:
    """Minimum and maximum number of characters of a match; None without a maximum."""
    if isinstance(node, Concat):
        spans = [length_range(part) for part in node.parts]
        return sum(low for low, _ in spans), _total([high for _, high in spans])
    if isinstance(node, Alternation):
        spans = [length_range(option) for option in node.options]
        highs = [high for _, high in spans]
        return min(low for low, _ in spans), None if None in highs else max(h for h in highs if h is not None)
    if isinstance(node, Repetition):
        low, high = length_range(node.part)
        return low * node.min_count, None if node.max_count is None or high is None else high * node.max_count
    return (0, 0) if isinstance(node, Unsupported | Anchor) else (1, 1)


def _total(highs: list[int | None]) -> int | None:
    return None if None in highs else sum(high for high in highs if high is not None)


def num_broad(node: RegexNode) -> int:
    """Number of broad character sets in the tree; a repeat counts once."""
    if isinstance(node, Concat):
        return sum(map(num_broad, node.parts))
    if isinstance(node, Alternation):
        return sum(map(num_broad, node.options))
    if isinstance(node, Repetition):
        return num_broad(node.part)
    return int(isinstance(node, Match) and node.codes.size() > BROAD)
