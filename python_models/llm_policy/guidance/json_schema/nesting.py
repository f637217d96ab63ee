"""How deep a schema nests, references included."""

from __future__ import annotations

from collections.abc import Iterator

from llm_policy.guidance.grammar.components import components
from llm_policy.guidance.json_schema.subschema import Subschema


def max_nesting(root: Subschema) -> int:
    """Upper bound of the subschemas that a recursive reader is inside of at once.

    A reader follows each reference once. Which one it follows first is not known, so all subschemas that refer to each
    other in a circle count.
    """
    edges = _edges(root)
    depths: dict[str, int] = {}
    for component in components(edges):
        members = set(component)
        below = max((depths[t] for name in component for t in edges[name] if t not in members), default=0)
        depths.update(dict.fromkeys(component, below + len(component)))
    return depths[str(root.number)]


def _edges(root: Subschema) -> dict[str, list[str]]:
    edges: dict[str, list[str]] = {}
    pending = [root]
    while pending:
        node = pending.pop()
        if str(node.number) not in edges:
            children = list(_children(node))
            edges[str(node.number)] = [str(child.number) for child in children]
            pending.extend(children)
    return edges


def _children(node: Subschema) -> Iterator[Subschema]:
    pending: list[object] = list(node.keywords.values())
    while pending:
        value = pending.pop()
        if isinstance(value, Subschema):
            yield value
        elif isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
