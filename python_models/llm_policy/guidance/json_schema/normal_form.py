"""The disjunctive normal form of subschemas: combinators expanded to a list of alternatives.

A conjunction is the subschemas that one value must satisfy together (a property declared in two branches of an
`allOf`, the siblings of a `$ref`). Its alternatives contain no combinators: each is a set of types and the subschemas
whose own keywords apply. Members and items are not expanded here, so recursion through references ends at the next
nested value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from llm_policy.guidance.json_reader import canonical_json
from llm_policy.guidance.json_schema.document import Document
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.negation import Negation
from llm_policy.guidance.json_schema.subschema import ALL_TYPES, FORBIDDEN, Subschema, keyword_set
from llm_policy.guidance.limits import invalid, too_complex
from llm_policy.release.guide_limits import GuideLimits

Conjunction = tuple[Subschema, ...]

_COMBINATORS = keyword_set(
    "$ref allOf anyOf oneOf not if then else dependentRequired dependentSchemas $defs definitions"
)
_MAX_EXPANSION_DEPTH = 100
_OBJECT = frozenset({"object"})


@dataclass(frozen=True)
class Alternative:
    """Values of these types that satisfy the own keywords (those that are no combinators) of all these subschemas."""

    types: frozenset[str]
    subschemas: tuple[Subschema, ...]

    def joined(self, other: Alternative) -> Alternative:
        """The values of both alternatives."""
        subschemas = (*self.subschemas, *(s for s in other.subschemas if s not in self.subschemas))
        return Alternative(self.types & other.types, subschemas)


ANYTHING = Alternative(ALL_TYPES, ())


class NormalForm:
    """Expands the conjunctions of one document."""

    def __init__(self, document: Document, limits: GuideLimits, unenforced: KeywordReport) -> None:
        self._document = document
        self._limits = limits
        self._unenforced = unenforced
        self._negation = Negation(document, unenforced)
        self._stack: list[Subschema] = []
        self._expanded: dict[Subschema, list[Alternative]] = {}
        self._synthetic_nodes: dict[tuple[Subschema, str], Subschema] = {}

    def alternatives(self, conjunction: Conjunction) -> list[Alternative]:
        """The alternatives of the conjunction; empty if it allows nothing."""
        expanded = [ANYTHING]
        for node in conjunction:
            expanded = self._product(expanded, self._expand(node), node, "allOf")
        return expanded

    def _expand(self, node: Subschema) -> list[Alternative]:
        if node.is_false:
            return []
        if node in self._expanded:
            return self._expanded[node]
        if node in self._stack:
            raise invalid(f"subschema {node.number} refers only to itself")
        if len(self._stack) >= _MAX_EXPANSION_DEPTH:
            raise too_complex("chain of references and combinators", len(self._stack) + 1, _MAX_EXPANSION_DEPTH)
        self._stack.append(node)
        try:
            self._expanded[node] = self._expand_keywords(node)
        finally:
            self._stack.pop()
        return self._expanded[node]

    def _expand_keywords(self, node: Subschema) -> list[Alternative]:
        expanded = [ANYTHING]
        own = Alternative(node.keywords.get("type", ALL_TYPES), (node,))
        is_own_pending = any(keyword not in _COMBINATORS for keyword in node.keywords)
        for keyword, value in node.keywords.items():
            if keyword not in _COMBINATORS:
                if is_own_pending and (keyword == "properties" or "properties" not in node.keywords):
                    expanded, is_own_pending = self._product(expanded, [own], node, keyword), False
            else:
                expanded = self._combine(expanded, node, keyword, value)
        return expanded

    def _combine(self, expanded: list[Alternative], node: Subschema, keyword: str, value: Any) -> list[Alternative]:
        """`expanded`, restricted by one combinator."""
        if keyword == "$ref":
            return self._product(expanded, self._expand(value), node, keyword)
        if keyword == "allOf":
            for member in value:
                expanded = self._product(expanded, self._expand(member), node, keyword)
            return expanded
        if keyword == "anyOf":
            return self._product(expanded, self._union(value), node, keyword)
        if keyword == "oneOf":
            return self._product(expanded, self._exactly_one(node, value), node, keyword)
        if keyword == "not":
            return self._product(expanded, self._expand(self._negation.negate(value)), node, keyword)
        if keyword == "if":
            return self._product(expanded, self._condition(node, value), node, keyword)
        if keyword in ("dependentRequired", "dependentSchemas"):
            for name, needed in value.items():
                expanded = self._product(expanded, self._dependency(node, keyword, name, needed), node, keyword)
        return expanded

    def _product(
        self, left: list[Alternative], right: list[Alternative], node: Subschema, keyword: str
    ) -> list[Alternative]:
        if left != [ANYTHING] and len(left) * len(right) > self._limits.max_alternatives:
            return self._approximate(left, right, node, keyword)
        joined = [one.joined(other) for one in left for other in right]
        return list(dict.fromkeys(alternative for alternative in joined if alternative.types))

    def _approximate(
        self, left: list[Alternative], right: list[Alternative], node: Subschema, keyword: str
    ) -> list[Alternative]:
        """For too many combinations: keep one side (the left if it has several alternatives), report the keyword."""
        self._unenforced.add(node.pointer, keyword, "too many combinations")
        return left if len(left) > 1 else right

    def _union(self, members: Iterable[Subschema]) -> list[Alternative]:
        expanded = [alternative for member in members for alternative in self._expand(member)]
        if len(expanded) > 4 * self._limits.max_alternatives:
            raise too_complex("alternatives of one subschema", len(expanded), 4 * self._limits.max_alternatives)
        return list(dict.fromkeys(expanded))

    def _exactly_one(self, node: Subschema, members: list[Subschema]) -> list[Alternative]:
        """Each member minus the others where their negation is small; other overlaps are reported."""
        branches = [self._expand(member) for member in members]
        expanded: list[Alternative] = []
        for i, branch in enumerate(branches):
            for j, member in enumerate(members):
                if j != i and not _are_disjoint(branch, branches[j]):
                    branch = self._without(branch, member, node)
            expanded.extend(branch)
        if len(expanded) > 4 * self._limits.max_alternatives:
            raise too_complex("alternatives of one subschema", len(expanded), 4 * self._limits.max_alternatives)
        return list(dict.fromkeys(expanded))

    def _without(self, branch: list[Alternative], member: Subschema, node: Subschema) -> list[Alternative]:
        negated = self._expand(self._negation.negate(member))
        kept = [one.joined(other) for one in branch for other in negated]
        kept = [one for one in kept if one.types]
        if len(kept) <= max(len(branch), 4):
            return kept
        self._unenforced.add(node.pointer, "oneOf", "two of its members may both match")
        return branch

    def _condition(self, node: Subschema, condition: Subschema) -> list[Alternative]:
        """The values that satisfy `if` and `then`, or `else` and not `if`."""
        then, otherwise = node.keywords.get("then"), node.keywords.get("else")
        if then is None and otherwise is None:
            return [ANYTHING]
        if_true = self._expand(condition)
        if then is not None:
            if_true = self._product(if_true, self._expand(then), node, "then")
        if_false = self._expand(self._negation.negate(condition))
        if otherwise is not None:
            if_false = self._product(if_false, self._expand(otherwise), node, "else")
        return list(dict.fromkeys([*if_true, *if_false]))

    def _dependency(self, node: Subschema, keyword: str, name: str, needed: Any) -> list[Alternative]:
        """The name is absent (or the value is no object), or the dependency holds."""
        absent = self._synthetic(node, f"{keyword}-\0{name}", {FORBIDDEN: [name]})
        if keyword == "dependentRequired":
            present = self._synthetic(node, f"{keyword}+\0{name}", {"required": [name, *needed]})
            return [Alternative(ALL_TYPES, (absent,)), Alternative(_OBJECT, (present,))]
        present = self._synthetic(node, f"{keyword}+\0{name}", {"required": [name]})
        satisfied = self._product([Alternative(_OBJECT, (present,))], self._expand(needed), node, keyword)
        return [Alternative(ALL_TYPES, (absent,)), *satisfied]

    def _synthetic(self, node: Subschema, key: str, keywords: dict[str, Any]) -> Subschema:
        if (node, key) not in self._synthetic_nodes:
            self._synthetic_nodes[node, key] = self._document.synthetic(keywords, node.pointer)
        return self._synthetic_nodes[node, key]


def _are_disjoint(left: list[Alternative], right: list[Alternative]) -> bool:
    """Whether no value can be in both; a quick test that may miss some cases."""
    return all(_disjoint(one, other) for one in left for other in right)


def _disjoint(one: Alternative, other: Alternative) -> bool:
    common = one.types & other.types
    if not common:
        return True
    return common == _OBJECT and _members_conflict(one, other)


def _members_conflict(one: Alternative, other: Alternative) -> bool:
    """Whether a required member of one side has no value that both sides allow."""
    names = {
        name
        for side in (one, other)
        for subschema in side.subschemas
        for name in subschema.keywords.get("required", ())
    }
    return any(_conflicts(one, other, name) for name in names)


def _conflicts(one: Alternative, other: Alternative, name: str) -> bool:
    left, right = _allowed_values(one, name), _allowed_values(other, name)
    return left is not None and right is not None and not left & right


def _allowed_values(alternative: Alternative, name: str) -> set[str] | None:
    """The member's listed values as canonical text; None if they are not listed."""
    for subschema in alternative.subschemas:
        member = subschema.keywords.get("properties", {}).get(name)
        if isinstance(member, Subschema):
            values = member.keywords.get("const", member.keywords.get("enum"))
            if values is not None:
                return {canonical_json(value) for value in values}
    return None
