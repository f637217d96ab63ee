"""Which values of an `enum` or `const` the other keywords allow."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema_rs

from llm_policy.guidance.json_reader import JsonValue, canonical_json
from llm_policy.guidance.json_schema.normal_form import Alternative, Conjunction, NormalForm
from llm_policy.guidance.json_schema.subschema import EXCLUDED, FORBIDDEN, Subschema, keyword_set

_LEAF_KEYWORDS = keyword_set(
    "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf minLength maxLength pattern format "
    "minItems maxItems uniqueItems minProperties maxProperties required"
)


def listed_values(alternative: Alternative) -> list[JsonValue] | None:
    """The values that every enum and const of the alternative lists; None if it has none."""
    lists = [values for subschema in alternative.subschemas for values in _value_lists(subschema)]
    if not lists:
        return None
    common = {canonical_json(value): value for value in reversed(lists[0])}
    for values in lists[1:]:
        texts = {canonical_json(value) for value in values}
        common = {text: value for text, value in common.items() if text in texts}
    return list(reversed(common.values()))


class LiteralFilter:
    """Checks single values against alternatives; the validator checks the keywords without subschemas."""

    def __init__(self, normal_form: NormalForm, draft: int) -> None:
        self._normal_form = normal_form
        self._draft = draft
        self._leaf_validators: dict[Subschema, Any] = {}
        self._lists: dict[Subschema, list[frozenset[str]]] = {}
        self._exclusions: dict[Subschema, frozenset[str]] = {}

    def primitive_type(self, value: JsonValue) -> str:
        """The value's primitive type. From draft 6 on, 1.0 is an integer."""
        if value is None:
            return "null"
        if isinstance(value, bool):
            return "boolean"
        if isinstance(value, float):
            return "integer" if value.is_integer() and self._draft > 4 else "fraction"
        return {int: "integer", str: "string", list: "array", dict: "object"}[type(value)]

    def conjunction_allows(self, conjunction: Conjunction, value: JsonValue) -> bool:
        """Whether some alternative of the conjunction allows the value."""
        return any(self.allows(alternative, value) for alternative in self._normal_form.alternatives(conjunction))

    def allows(self, alternative: Alternative, value: JsonValue) -> bool:
        """Whether the value satisfies the alternative."""
        if self.primitive_type(value) not in alternative.types:
            return False
        text = canonical_json(value)
        return all(self._passes(subschema, value, text) for subschema in alternative.subschemas)

    def _passes(self, subschema: Subschema, value: JsonValue, text: str) -> bool:
        if any(text not in listed for listed in self._listed(subschema)) or text in self._excluded(subschema):
            return False
        if not self._leaf_validator(subschema).is_valid(value):
            return False
        if isinstance(value, dict):
            return self._members_pass(subschema, value)
        return self._items_pass(subschema, value) if isinstance(value, list) else True

    def _listed(self, subschema: Subschema) -> list[frozenset[str]]:
        if subschema not in self._lists:
            self._lists[subschema] = [frozenset(map(canonical_json, values)) for values in _value_lists(subschema)]
        return self._lists[subschema]

    def _excluded(self, subschema: Subschema) -> frozenset[str]:
        if subschema not in self._exclusions:
            self._exclusions[subschema] = frozenset(map(canonical_json, subschema.keywords.get(EXCLUDED, ())))
        return self._exclusions[subschema]

    def _leaf_validator(self, subschema: Subschema) -> Any:
        if subschema not in self._leaf_validators:
            leaf_keywords = {
                keyword: value for keyword, value in subschema.keywords.items() if keyword in _LEAF_KEYWORDS
            }
            self._leaf_validators[subschema] = jsonschema_rs.Draft202012Validator(leaf_keywords, validate_formats=True)
        return self._leaf_validators[subschema]

    def _members_pass(self, subschema: Subschema, value: dict[str, JsonValue]) -> bool:
        if any(name in value for name in subschema.keywords.get(FORBIDDEN, ())):
            return False
        return all(
            self.conjunction_allows((schema,), item)
            for name, item in value.items()
            for schema in member_schemas(subschema, name)
        ) and all(
            self.conjunction_allows((subschema.keywords["propertyNames"],), name)
            for name in value
            if "propertyNames" in subschema.keywords
        )

    def _items_pass(self, subschema: Subschema, value: list[JsonValue]) -> bool:
        prefix = subschema.keywords.get("prefixItems", [])
        rest = subschema.keywords.get("items")
        schemas = [*prefix, *([rest] * (len(value) - len(prefix)) if rest else [])]
        items_pass = all(self.conjunction_allows((schema,), item) for schema, item in zip(schemas, value, strict=False))
        contains = subschema.keywords.get("contains")
        if contains is None or subschema.keywords.get("minContains") == 0:
            return items_pass
        return items_pass and any(self.conjunction_allows((contains,), item) for item in value)


def _value_lists(subschema: Subschema) -> list[list[JsonValue]]:
    return [subschema.keywords[keyword] for keyword in ("enum", "const") if keyword in subschema.keywords]


def member_schemas(subschema: Subschema, name: str) -> list[Subschema]:
    """The subschemas of one object schema that a member of this name must satisfy."""
    keywords = subschema.keywords
    found = [keywords["properties"][name]] if name in keywords.get("properties", ()) else []
    found.extend(schema for pattern, schema in keywords.get("patternProperties", {}).items() if is_found(pattern, name))
    if not found and "additionalProperties" in keywords:
        found.append(keywords["additionalProperties"])
    return found


def is_found(pattern: str, name: str) -> bool:
    """Whether a search for the pattern matches the name, according to the validator."""
    return bool(_pattern_validator(pattern).is_valid(name))


@lru_cache(maxsize=1_000)
def _pattern_validator(pattern: str) -> Any:
    return jsonschema_rs.Draft202012Validator({"pattern": pattern})
