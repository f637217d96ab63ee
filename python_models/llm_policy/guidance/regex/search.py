"""From a search to a full match.

JSON Schema's patterns are searches (2020-12 Validation §6.3.3): unless anchored, anything may stand before and after.
`full_match` moves that into the tree: anchors disappear, and an open end gets "anything".
"""

from __future__ import annotations

from llm_policy.guidance.regex.syntax import ANYTHING, Anchor, Concat, Either, Gap, Loop, Match, RegexNode

BROAD = 256
"""A character set larger than this is broad: it takes most of what a model may write."""
MAX_BRANCHES = 64
"""Branches that carry anchors of their own, such as `^a|b$`, once written out."""


def full_match(node: RegexNode) -> RegexNode:
    """The tree that matches a whole string exactly when `node` is found in it; what is left out is a Gap."""
    options = tuple(_closed(branch) for branch in _branches(node))
    return options[0] if len(options) == 1 else Either(options)


def _has_anchor(node: RegexNode) -> bool:
    if isinstance(node, Concat):
        return any(map(_has_anchor, node.parts))
    if isinstance(node, Either):
        return any(map(_has_anchor, node.options))
    return _has_anchor(node.part) if isinstance(node, Loop) else isinstance(node, Anchor)


def _branches(node: RegexNode) -> list[list[RegexNode]]:
    """Sequences whose anchors stand in the open, not inside a choice."""
    if not _has_anchor(node):
        return [[node]]
    if isinstance(node, Either):
        return [branch for option in node.options for branch in _branches(option)]
    if not isinstance(node, Concat):
        return [[Gap("an anchor inside a repeat") if isinstance(node, Loop) else node]]
    branches: list[list[RegexNode]] = [[]]
    for part in node.parts:
        inner = _branches(part)
        if len(branches) * len(inner) > MAX_BRANCHES:
            inner = [[Gap("too many branches with anchors"), ANYTHING]]
        branches = [head + tail for head in branches for tail in inner]
    return branches


def _closed(parts: list[RegexNode]) -> RegexNode:
    """One branch with its outer anchors taken off and its open ends filled."""
    start, end = 0, len(parts)
    while start < end and parts[start] == Anchor("^"):
        start += 1
    while end > start and parts[end - 1] == Anchor("$"):
        end -= 1
    middle = [Gap("an anchor in the middle") if isinstance(part, Anchor) else part for part in parts[start:end]]
    before = [] if start else [ANYTHING]
    after = [] if end < len(parts) else [ANYTHING]
    return Concat((*before, *middle, *after))


def length_range(node: RegexNode) -> tuple[int, int | None]:
    """Fewest and most characters of a match; None where there is no most."""
    if isinstance(node, Concat):
        spans = [length_range(part) for part in node.parts]
        return sum(low for low, _ in spans), _total([high for _, high in spans])
    if isinstance(node, Either):
        spans = [length_range(option) for option in node.options]
        highs = [high for _, high in spans]
        return min(low for low, _ in spans), None if None in highs else max(h for h in highs if h is not None)
    if isinstance(node, Loop):
        low, high = length_range(node.part)
        return low * node.least, None if node.most is None or high is None else high * node.most
    return (0, 0) if isinstance(node, Gap | Anchor) else (1, 1)


def _total(highs: list[int | None]) -> int | None:
    return None if None in highs else sum(high for high in highs if high is not None)


def num_broad(node: RegexNode) -> int:
    """Places in the tree that take most characters, a counted run being one."""
    if isinstance(node, Concat):
        return sum(map(num_broad, node.parts))
    if isinstance(node, Either):
        return sum(map(num_broad, node.options))
    if isinstance(node, Loop):
        return num_broad(node.part)
    return int(isinstance(node, Match) and node.codes.size() > BROAD)
