"""Rewrites `not` in terms of other keywords.

`negate(node)` is a node that allows at least everything that `node` rejects. It is exact for types, values, bounds,
lengths, counts, required and declared members, items, and their combinations. For other keywords it allows too much,
which is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm_policy.guidance.json_schema.document import Document
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.subschema import ALL_TYPES, EXCLUDED, FORBIDDEN, NEVER, NUMBER_TYPES, Subschema

_STRING, _ARRAY, _OBJECT = (frozenset({name}) for name in ("string", "array", "object"))

Options = list[dict[str, Any]]


class Negation:
    """The negated nodes of one document, each built once."""

    def __init__(self, document: Document, unenforced: KeywordReport) -> None:
        self._document = document
        self._unenforced = unenforced
        self._negated_nodes: dict[Subschema, Subschema] = {}

    def negate(self, node: Subschema) -> Subschema:
        """The node for `not node`."""
        if node not in self._negated_nodes:
            self._negated_nodes[node] = self._document.synthetic({}, node.pointer)
            self._negated_nodes[node].keywords.update(self._negated(node))
        return self._negated_nodes[node]

    def _negated(self, node: Subschema) -> dict[str, Any]:
        if node.is_true:
            return dict(NEVER)
        if node.is_false:
            return {}
        options: Options = []
        for keyword, value in node.keywords.items():
            negation = _NEGATIONS.get(keyword)
            if negation is not None:
                options.extend(negation(self, node, value))
            elif keyword not in _WITHOUT_EFFECT:
                self._unenforced.add(node.pointer, keyword, "its negation is not enforced")
                options.append({"type": _TYPES_OF[keyword]} if keyword in _TYPES_OF else {})
        if len(options) == 1:
            return options[0]
        if not options:
            return dict(NEVER)
        return {"anyOf": [self._document.synthetic(option, node.pointer) for option in options]}

    def _deferred(self, node: Subschema) -> Subschema:
        """`not node`, negated only when it is used."""
        return self._document.synthetic({"not": node}, node.pointer)

    def type(self, node: Subschema, types: frozenset[str]) -> Options:
        """Any other type."""
        other_types = ALL_TYPES - types
        return [{"type": other_types}] if other_types else []

    def values(self, node: Subschema, values: list[Any]) -> Options:
        """None of the values."""
        return [{EXCLUDED: values}]

    def excluded(self, node: Subschema, values: list[Any]) -> Options:
        """One of the values."""
        return [{"enum": values}]

    def required(self, node: Subschema, names: list[str]) -> Options:
        """One of the names is missing."""
        return [{"type": _OBJECT, FORBIDDEN: [name]} for name in dict.fromkeys(names)]

    def forbidden(self, node: Subschema, names: list[str]) -> Options:
        """One of the names is present."""
        return [{"type": _OBJECT, "required": [name]} for name in names]

    def properties(self, node: Subschema, members: dict[str, Subschema]) -> Options:
        """Some member is present and invalid."""
        return [
            {"type": _OBJECT, "required": [name], "properties": {name: self._deferred(member)}}
            for name, member in members.items()
            if not member.is_true
        ]

    def items(self, node: Subschema, item: Subschema) -> Options:
        """Some item is invalid."""
        if item.is_true:
            return []
        if "prefixItems" in node.keywords:
            self._unenforced.add(node.pointer, "items", "its negation is not enforced")
            return [{"type": _ARRAY}]
        return [{"type": _ARRAY, "contains": self._deferred(item)}]

    def all_of(self, node: Subschema, members: list[Subschema]) -> Options:
        """Some subschema rejects the value."""
        return [{"not": member} for member in members]

    def any_of(self, node: Subschema, members: list[Subschema]) -> Options:
        """Every subschema rejects the value."""
        return [{"allOf": [self._deferred(member) for member in members]}]

    def one_of(self, node: Subschema, members: list[Subschema]) -> Options:
        """The negation of a single subschema; for more of them, anything."""
        if len(members) == 1:
            return self.any_of(node, members)
        self._unenforced.add(node.pointer, "oneOf", "its negation is not enforced")
        return [{}]

    def inner_not(self, node: Subschema, inner: Subschema) -> Options:
        """The negated subschema itself."""
        return [{"allOf": [inner]}]

    def reference(self, node: Subschema, target: Subschema) -> Options:
        """The negation of the target."""
        return [{"not": target}]


def _bound(limit: str) -> Callable[[Negation, Subschema, Any], Options]:
    return lambda _, __, value: [{"type": NUMBER_TYPES, limit: value}]


def _below_min(limit: str, types: frozenset[str]) -> Callable[[Negation, Subschema, int], Options]:
    return lambda _, __, count: [{"type": types, limit: count - 1}] if count > 0 else []


def _above_max(limit: str, types: frozenset[str]) -> Callable[[Negation, Subschema, int], Options]:
    return lambda _, __, count: [{"type": types, limit: count + 1}]


_NEGATIONS: dict[str, Callable[[Negation, Subschema, Any], Options]] = {
    "type": Negation.type,
    "enum": Negation.values,
    "const": Negation.values,
    EXCLUDED: Negation.excluded,
    "required": Negation.required,
    FORBIDDEN: Negation.forbidden,
    "properties": Negation.properties,
    "items": Negation.items,
    "allOf": Negation.all_of,
    "anyOf": Negation.any_of,
    "oneOf": Negation.one_of,
    "not": Negation.inner_not,
    "$ref": Negation.reference,
    "minimum": _bound("exclusiveMaximum"),
    "maximum": _bound("exclusiveMinimum"),
    "exclusiveMinimum": _bound("maximum"),
    "exclusiveMaximum": _bound("minimum"),
    "minLength": _below_min("maxLength", _STRING),
    "maxLength": _above_max("minLength", _STRING),
    "minItems": _below_min("maxItems", _ARRAY),
    "maxItems": _above_max("minItems", _ARRAY),
    "minProperties": _below_min("maxProperties", _OBJECT),
    "maxProperties": _above_max("minProperties", _OBJECT),
}
_TYPES_OF = {
    "pattern": _STRING,
    "format": _STRING,
    "multipleOf": NUMBER_TYPES,
    "prefixItems": _ARRAY,
    "contains": _ARRAY,
    "uniqueItems": _ARRAY,
    "unevaluatedItems": _ARRAY,
    "patternProperties": _OBJECT,
    "additionalProperties": _OBJECT,
    "propertyNames": _OBJECT,
    "dependentRequired": _OBJECT,
    "dependentSchemas": _OBJECT,
    "unevaluatedProperties": _OBJECT,
}
"""Keywords whose negation is only known to have these types."""
_WITHOUT_EFFECT = frozenset({"$defs", "definitions", "minContains", "maxContains", "then", "else"})
"""No effect of their own; `if` covers its branches."""
