"""Which values of an `enum` or `const` the other keywords leave over."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from llm_policy.guidance.json_reader import JsonValue, canonical_json
from llm_policy.guidance.json_schema.normal_form import Alternative, Conjunction, NormalForm
from llm_policy.guidance.json_schema.subschema import EXCLUDED, FORBIDDEN, Subschema, words

_LEAVES = words(
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern format "
    "minItems maxItems uniqueItems minProperties maxProperties required"
)


def listed_values(alternative: Alternative) -> list[JsonValue] | None:
    """The values that every enum and const of the alternative lists; None when there is no list."""
    lists = [base.keywords[word] for base in alternative.bases for word in ("enum", "const") if word in base.keywords]
    if not lists:
        return None
    common = {canonical_json(value): value for value in reversed(lists[0])}
    for values in lists[1:]:
        texts = {canonical_json(value) for value in values}
        common = {text: value for text, value in common.items() if text in texts}
    return list(reversed(common.values()))


class LiteralFilter:
    """Checks single values against alternatives, with the validator for the keywords of one value."""

    def __init__(self, expansion: NormalForm, draft: int) -> None:
        self._expansion = expansion
        self._draft = draft
        self._leaves: dict[Subschema, Any] = {}
        self._lists: dict[Subschema, list[frozenset[str]]] = {}
        self._exclusions: dict[Subschema, frozenset[str]] = {}

    def atom(self, value: JsonValue) -> str:
        """The value's type. From draft 6 on 1.0 is an integer."""
        if value is None:
            return "null"
        if isinstance(value, bool):
            return "boolean"
        if isinstance(value, float):
            return "integer" if value.is_integer() and self._draft > 4 else "fraction"
        return {int: "integer", str: "string", list: "array", dict: "object"}[type(value)]

    def fits_all(self, conjunction: Conjunction, value: JsonValue) -> bool:
        """Whether some alternative of the conjunction takes the value."""
        return any(self.fits(one, value) for one in self._expansion.alternatives(conjunction))

    def fits(self, alternative: Alternative, value: JsonValue) -> bool:
        """Whether the value passes everything that the alternative says."""
        if self.atom(value) not in alternative.types:
            return False
        text = canonical_json(value)
        return all(self._passes(base, value, text) for base in alternative.bases)

    def _passes(self, base: Subschema, value: JsonValue, text: str) -> bool:
        if any(text not in listed for listed in self._listed(base)) or text in self._excluded(base):
            return False
        if not self._leaf(base).is_valid(value):
            return False
        if isinstance(value, dict):
            return self._members_pass(base, value)
        return self._items_pass(base, value) if isinstance(value, list) else True

    def _listed(self, base: Subschema) -> list[frozenset[str]]:
        if base not in self._lists:
            words = [base.keywords[word] for word in ("enum", "const") if word in base.keywords]
            self._lists[base] = [frozenset(map(canonical_json, values)) for values in words]
        return self._lists[base]

    def _excluded(self, base: Subschema) -> frozenset[str]:
        if base not in self._exclusions:
            self._exclusions[base] = frozenset(map(canonical_json, base.keywords.get(EXCLUDED, ())))
        return self._exclusions[base]

    def _leaf(self, base: Subschema) -> Any:
        if base not in self._leaves:
            leaf = {word: value for word, value in base.keywords.items() if word in _LEAVES}
            self._leaves[base] = jsonschema_rs.Draft202012Validator(leaf, validate_formats=True)
        return self._leaves[base]

    def _members_pass(self, base: Subschema, value: dict[str, JsonValue]) -> bool:
        if any(name in value for name in base.keywords.get(FORBIDDEN, ())):
            return False
        return all(
            self.fits_all((schema,), item) for name, item in value.items() for schema in member_schemas(base, name)
        ) and all(
            self.fits_all((base.keywords["propertyNames"],), name) for name in value if "propertyNames" in base.keywords
        )

    def _items_pass(self, base: Subschema, value: list[JsonValue]) -> bool:
        prefix = base.keywords.get("prefixItems", [])
        rest = base.keywords.get("items")
        schemas = [*prefix, *([rest] * (len(value) - len(prefix)) if rest else [])]
        fine = all(self.fits_all((schema,), item) for schema, item in zip(schemas, value, strict=False))
        contains = base.keywords.get("contains")
        if contains is None or base.keywords.get("minContains") == 0:
            return fine
        return fine and any(self.fits_all((contains,), item) for item in value)


def member_schemas(base: Subschema, name: str) -> list[Subschema]:
    """The subschemas of one object schema that a member of this name must satisfy."""
    words = base.keywords
    found = [words["properties"][name]] if name in words.get("properties", ()) else []
    found.extend(schema for pattern, schema in words.get("patternProperties", {}).items() if is_found(pattern, name))
    if not found and "additionalProperties" in words:
        found.append(words["additionalProperties"])
    return found


def is_found(pattern: str, name: str) -> bool:
    """Whether the pattern is found in the name, as the validator sees it."""
    if pattern not in _FINDERS:
        if len(_FINDERS) > 1_000:
            _FINDERS.clear()
        _FINDERS[pattern] = jsonschema_rs.Draft202012Validator({"pattern": pattern})
    return bool(_FINDERS[pattern].is_valid(name))


_FINDERS: dict[str, Any] = {}
