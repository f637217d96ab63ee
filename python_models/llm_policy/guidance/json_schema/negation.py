"""What `not` means, written without `not` where the vocabulary has the words.

`negate(node)` is a node that allows at least everything the original refuses. It is exact for types, values, bounds,
lengths, counts, required and declared members, items, and their combinations; for the rest it allows too much and
says so in the report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm_policy.guidance.json_schema.document import Document
from llm_policy.guidance.json_schema.keyword_report import KeywordReport
from llm_policy.guidance.json_schema.subschema import EVERY_TYPE, EXCLUDED, FORBIDDEN, NEVER, NUMBERS, Subschema

_STRING, _ARRAY, _OBJECT = (frozenset({name}) for name in ("string", "array", "object"))

Options = list[dict[str, Any]]


class Negation:
    """Negated nodes of one document, each made once."""

    def __init__(self, document: Document, report: KeywordReport) -> None:
        self._document = document
        self._report = report
        self._made: dict[Subschema, Subschema] = {}

    def negate(self, node: Subschema) -> Subschema:
        """The node for `not node`."""
        if node not in self._made:
            self._made[node] = self._document.synthetic({}, node.pointer)
            self._made[node].keywords.update(self._negated(node))
        return self._made[node]

    def _negated(self, node: Subschema) -> dict[str, Any]:
        if node.is_true:
            return dict(NEVER)
        if node.is_false:
            return {}
        options: Options = []
        for keyword, value in node.keywords.items():
            rule = _RULES.get(keyword)
            if rule is not None:
                options.extend(rule(self, node, value))
            elif keyword not in _SILENT:
                self._report.add(node.pointer, keyword, "its negation is not followed")
                options.append({"type": _TYPES[keyword]} if keyword in _TYPES else {})
        if len(options) == 1:
            return options[0]
        if not options:
            return dict(NEVER)
        return {"anyOf": [self._document.synthetic(option, node.pointer) for option in options]}

    def _later(self, node: Subschema) -> Subschema:
        """`not node`, to be written out only when somebody looks at it."""
        return self._document.synthetic({"not": node}, node.pointer)

    def type(self, node: Subschema, atoms: frozenset[str]) -> Options:
        """Every other type."""
        rest = EVERY_TYPE - atoms
        return [{"type": rest}] if rest else []

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
        """One of the names is there."""
        return [{"type": _OBJECT, "required": [name]} for name in names]

    def properties(self, node: Subschema, members: dict[str, Subschema]) -> Options:
        """Some member is there and wrong."""
        return [
            {"type": _OBJECT, "required": [name], "properties": {name: self._later(member)}}
            for name, member in members.items()
            if not member.is_true
        ]

    def items(self, node: Subschema, item: Subschema) -> Options:
        """Some item is wrong."""
        if item.is_true:
            return []
        if "prefixItems" in node.keywords:
            self._report.add(node.pointer, "items", "its negation is not followed")
            return [{"type": _ARRAY}]
        return [{"type": _ARRAY, "contains": self._later(item)}]

    def all_of(self, node: Subschema, members: list[Subschema]) -> Options:
        """Some member fails."""
        return [{"not": member} for member in members]

    def any_of(self, node: Subschema, members: list[Subschema]) -> Options:
        """Every member fails."""
        return [{"allOf": [self._later(member) for member in members]}]

    def one_of(self, node: Subschema, members: list[Subschema]) -> Options:
        """For a single member its negation; for more, anything."""
        if len(members) == 1:
            return self.any_of(node, members)
        self._report.add(node.pointer, "oneOf", "its negation is not followed")
        return [{}]

    def inner_not(self, node: Subschema, inner: Subschema) -> Options:
        """What was negated."""
        return [{"allOf": [inner]}]

    def reference(self, node: Subschema, target: Subschema) -> Options:
        """The negation of the target."""
        return [{"not": target}]


def _bound(limit: str) -> Callable[[Negation, Subschema, Any], Options]:
    return lambda _, __, value: [{"type": NUMBERS, limit: value}]


def _least(limit: str, types: frozenset[str]) -> Callable[[Negation, Subschema, int], Options]:
    return lambda _, __, count: [{"type": types, limit: count - 1}] if count > 0 else []


def _most(limit: str, types: frozenset[str]) -> Callable[[Negation, Subschema, int], Options]:
    return lambda _, __, count: [{"type": types, limit: count + 1}]


_RULES: dict[str, Callable[[Negation, Subschema, Any], Options]] = {
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
    "minLength": _least("maxLength", _STRING),
    "maxLength": _most("minLength", _STRING),
    "minItems": _least("maxItems", _ARRAY),
    "maxItems": _most("minItems", _ARRAY),
    "minProperties": _least("maxProperties", _OBJECT),
    "maxProperties": _most("minProperties", _OBJECT),
}
_TYPES = {
    "pattern": _STRING,
    "format": _STRING,
    "multipleOf": NUMBERS,
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
"""Keywords whose negation is at least known to be of these types."""
_SILENT = frozenset({"$defs", "definitions", "minContains", "maxContains", "then", "else"})
"""Say nothing by themselves; `if` speaks for its branches."""
