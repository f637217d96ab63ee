"""Combinators multiplied out: what a set of subschemas allows together, as a list of plain alternatives.

A conjunction is the subschemas that one value must satisfy all at once (a property declared in two branches of an
`allOf`, the siblings of a `$ref`). Its alternatives hold no combinator any more: each is a set of types and the
subschemas whose own keywords apply. Nothing below a value (members, items) is looked at here, so recursion
through references ends at the next value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from llm_policy.guidance.json_reader import canonical_json
from llm_policy.guidance.json_schema.document import Document
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.negation import Negation
from llm_policy.guidance.json_schema.subschema import EVERY_TYPE, FORBIDDEN, Subschema, words
from llm_policy.guidance.limits import invalid, too_complex
from llm_policy.release.guide_limits import GuideLimits

Conjunction = tuple[Subschema, ...]

_COMBINATORS = words("$ref allOf anyOf oneOf not if then else dependentRequired dependentSchemas $defs definitions")
_MAX_EXPANSION_DEPTH = 100
_OBJECT = frozenset({"object"})


@dataclass(frozen=True)
class Alternative:
    """Values of these types for which the own keywords of all these subschemas hold."""

    types: frozenset[str]
    bases: tuple[Subschema, ...]

    def joined(self, other: Alternative) -> Alternative:
        """Both at once."""
        bases = (*self.bases, *(base for base in other.bases if base not in self.bases))
        return Alternative(self.types & other.types, bases)


ANY = Alternative(EVERY_TYPE, ())

Part = Callable[[], list[Alternative]]


class NormalForm:
    """Alternatives of conjunctions in one document."""

    def __init__(self, document: Document, limits: GuideLimits, report: KeywordReport) -> None:
        self._document = document
        self._limits = limits
        self._report = report
        self._negation = Negation(document, report)
        self._stack: list[Subschema] = []
        self._expanded: dict[Subschema, list[Alternative]] = {}
        self._pieces: dict[tuple[Subschema, str], Subschema] = {}

    def alternatives(self, conjunction: Conjunction) -> list[Alternative]:
        """What the conjunction allows; an empty list is nothing."""
        found = [ANY]
        for node in conjunction:
            found = self._product(found, self._expand(node), node, "allOf")
        return found

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
        found = [ANY]
        own = Alternative(node.keywords.get("type", EVERY_TYPE), (node,))
        own_pending = any(keyword not in _COMBINATORS for keyword in node.keywords)
        for keyword, value in node.keywords.items():
            if keyword not in _COMBINATORS:
                if own_pending and (keyword == "properties" or "properties" not in node.keywords):
                    found, own_pending = self._product(found, [own], node, keyword), False
            else:
                found = self._combine(found, node, keyword, value)
        return found

    def _combine(self, found: list[Alternative], node: Subschema, keyword: str, value: Any) -> list[Alternative]:
        """`found`, and the combinator as well."""
        if keyword == "$ref":
            return self._product(found, self._expand(value), node, keyword)
        if keyword == "allOf":
            for member in value:
                found = self._product(found, self._expand(member), node, keyword)
            return found
        if keyword == "anyOf":
            return self._product(found, self._union(value), node, keyword)
        if keyword == "oneOf":
            return self._product(found, self._exactly_one(node, value), node, keyword)
        if keyword == "not":
            return self._product(found, self._expand(self._negation.negate(value)), node, keyword)
        if keyword == "if":
            return self._product(found, self._condition(node, value), node, keyword)
        if keyword in ("dependentRequired", "dependentSchemas"):
            for name, needed in value.items():
                found = self._product(found, self._dependency(node, keyword, name, needed), node, keyword)
        return found

    def _product(
        self, left: list[Alternative], right: list[Alternative], node: Subschema, keyword: str
    ) -> list[Alternative]:
        if left != [ANY] and len(left) * len(right) > self._limits.max_alternatives:
            return self._give_up(left, right, node, keyword)
        joined = [one.joined(other) for one in left for other in right]
        return list(dict.fromkeys(alternative for alternative in joined if alternative.types))

    def _give_up(
        self, left: list[Alternative], right: list[Alternative], node: Subschema, keyword: str
    ) -> list[Alternative]:
        """Too many combinations: keep the side with more to say, and report the other."""
        self._report.add(node.pointer, keyword, "too many combinations")
        return left if len(left) > 1 else right

    def _union(self, members: Iterable[Subschema]) -> list[Alternative]:
        found = [alternative for member in members for alternative in self._expand(member)]
        if len(found) > 4 * self._limits.max_alternatives:
            raise too_complex("alternatives of one subschema", len(found), 4 * self._limits.max_alternatives)
        return list(dict.fromkeys(found))

    def _exactly_one(self, node: Subschema, members: list[Subschema]) -> list[Alternative]:
        """Each member without the others, where the others' negation is cheap to say; overlaps are reported."""
        branches = [self._expand(member) for member in members]
        found: list[Alternative] = []
        for i, branch in enumerate(branches):
            for j, member in enumerate(members):
                if j != i and not _apart(branch, branches[j]):
                    branch = self._without(branch, member, node)
            found.extend(branch)
        if len(found) > 4 * self._limits.max_alternatives:
            raise too_complex("alternatives of one subschema", len(found), 4 * self._limits.max_alternatives)
        return list(dict.fromkeys(found))

    def _without(self, branch: list[Alternative], other: Subschema, node: Subschema) -> list[Alternative]:
        refused = self._expand(self._negation.negate(other))
        kept = [one.joined(no) for one in branch for no in refused]
        kept = [one for one in kept if one.types]
        if len(kept) <= max(len(branch), 4):
            return kept
        self._report.add(node.pointer, "oneOf", "two of its members may both match")
        return branch

    def _condition(self, node: Subschema, condition: Subschema) -> list[Alternative]:
        """`if`: where it holds `then` applies, where it does not `else` does."""
        then, otherwise = node.keywords.get("then"), node.keywords.get("else")
        if then is None and otherwise is None:
            return [ANY]
        yes = self._expand(condition)
        if then is not None:
            yes = self._product(yes, self._expand(then), node, "then")
        no = self._expand(self._negation.negate(condition))
        if otherwise is not None:
            no = self._product(no, self._expand(otherwise), node, "else")
        return list(dict.fromkeys([*yes, *no]))

    def _dependency(self, node: Subschema, keyword: str, name: str, needed: Any) -> list[Alternative]:
        """Either the name is absent (or the value no object), or what it needs holds."""
        absent = self._piece(node, f"{keyword}-\0{name}", {FORBIDDEN: [name]})
        if keyword == "dependentRequired":
            present = self._piece(node, f"{keyword}+\0{name}", {"required": [name, *needed]})
            return [Alternative(EVERY_TYPE, (absent,)), Alternative(_OBJECT, (present,))]
        present = self._piece(node, f"{keyword}+\0{name}", {"required": [name]})
        held = self._product([Alternative(_OBJECT, (present,))], self._expand(needed), node, keyword)
        return [Alternative(EVERY_TYPE, (absent,)), *held]

    def _piece(self, node: Subschema, key: str, keywords: dict[str, Any]) -> Subschema:
        if (node, key) not in self._pieces:
            self._pieces[node, key] = self._document.synthetic(keywords, node.pointer)
        return self._pieces[node, key]


def _apart(left: list[Alternative], right: list[Alternative]) -> bool:
    """Whether no value can be in both, as far as a quick look tells."""
    return all(_disjoint(one, other) for one in left for other in right)


def _disjoint(one: Alternative, other: Alternative) -> bool:
    common = one.types & other.types
    if not common:
        return True
    return common == _OBJECT and _members_clash(one, other)


def _members_clash(one: Alternative, other: Alternative) -> bool:
    """A member that one side demands and the other cannot have with any value of the first."""
    names = {name for side in (one, other) for base in side.bases for name in base.keywords.get("required", ())}
    return any(_clash(one, other, name) for name in names)


def _clash(one: Alternative, other: Alternative, name: str) -> bool:
    left, right = _allowed_values(one, name), _allowed_values(other, name)
    return left is not None and right is not None and not left & right


def _allowed_values(alternative: Alternative, name: str) -> set[str] | None:
    """The member's values when they are listed, as canonical text; None when they are not."""
    for base in alternative.bases:
        member = base.keywords.get("properties", {}).get(name)
        if isinstance(member, Subschema):
            values = member.keywords.get("const", member.keywords.get("enum"))
            if values is not None:
                return {canonical_json(value) for value in values}
    return None
