"""One subschema of the client's document, normalised to one vocabulary for all drafts.

`normalise` translates the keywords of any draft to those of 2020-12, plus two keywords of our own for negation, and
removes keywords that the draft ignores, exactly as the validator does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from llm_policy.guidance.json_reader import JsonValue
from llm_policy.guidance.limits import invalid


def keyword_set(text: str) -> frozenset[str]:
    """The whitespace-separated keywords of a text."""
    return frozenset(text.split())


PRIMITIVE_TYPES = ("null", "boolean", "integer", "fraction", "string", "array", "object")
"""Disjoint types: JSON Schema's `number` is integer or fraction."""
ALL_TYPES = frozenset(PRIMITIVE_TYPES)
NUMBER_TYPES = frozenset({"integer", "fraction"})
_PRIMITIVE_TYPES_OF = {name: frozenset({name}) for name in PRIMITIVE_TYPES if name != "fraction"} | {
    "number": NUMBER_TYPES
}

SUBSCHEMA_KEYWORDS = keyword_set(
    "items additionalItems additionalProperties propertyNames contains not if then else "
    "unevaluatedProperties unevaluatedItems"
)
SUBSCHEMA_LISTS = keyword_set("allOf anyOf oneOf prefixItems")
SUBSCHEMA_MAPS = keyword_set("properties patternProperties dependentSchemas $defs definitions")

COUNT_KEYWORDS = keyword_set(
    "minLength maxLength minItems maxItems minProperties maxProperties minContains maxContains"
)
NUMERIC_KEYWORDS = keyword_set("minimum maximum exclusiveMinimum exclusiveMaximum multipleOf")
FORBIDDEN = "\0forbidden"
"""Our own keyword: member names that an object must not have (from `not: {required: …}`)."""
EXCLUDED = "\0excluded"
"""Our own keyword: values that are not allowed (from `not: {enum: …}`)."""

KEYWORDS = (
    SUBSCHEMA_KEYWORDS
    | SUBSCHEMA_LISTS
    | SUBSCHEMA_MAPS
    | COUNT_KEYWORDS
    | NUMERIC_KEYWORDS
    | keyword_set("$ref $dynamicRef $recursiveRef type enum const required pattern format uniqueItems")
    | keyword_set("dependencies dependentRequired $id id $anchor $dynamicAnchor $schema")
)
_FIRST_DRAFT = {
    "const": 6,
    "contains": 6,
    "propertyNames": 6,
    "if": 7,
    "then": 7,
    "else": 7,
    "dependentRequired": 2019,
    "dependentSchemas": 2019,
    "minContains": 2019,
    "maxContains": 2019,
    "unevaluatedProperties": 2019,
    "unevaluatedItems": 2019,
    "prefixItems": 2020,
    "$anchor": 2019,
    "$dynamicRef": 2020,
    "$dynamicAnchor": 2020,
}
"""The first draft that defines a keyword; older drafts ignore it."""


@dataclass(eq=False)
class Subschema:
    """A node of the document; `keywords` is normalised, with Subschema objects in place of schemas."""

    number: int
    pointer: str
    keywords: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Subschema({self.number})"

    @property
    def is_false(self) -> bool:
        """Whether this is the schema `false`."""
        return "\0never" in self.keywords

    @property
    def is_true(self) -> bool:
        """Whether this is a schema without constraints."""
        return not self.keywords


def keyword_values(subschemas: Iterable[Subschema], keyword: str) -> list[Any]:
    """The keyword's value of each subschema that has it."""
    return [subschema.keywords[keyword] for subschema in subschemas if keyword in subschema.keywords]


NEVER = {"\0never": True}

Child = Callable[[JsonValue, str], Subschema]


def normalise(raw: dict[str, JsonValue], draft: int, number: int, child: Child) -> dict[str, Any]:
    """The effective keywords in their order; `child(schema, pointer suffix)` creates the nodes below.

    Raises:
        InvalidRequest: `schema_invalid`, a keyword has an invalid value.
    """
    if "$ref" in raw and draft <= 7:
        raw = {"$ref": raw["$ref"], **{k: raw[k] for k in ("definitions", "$defs") if k in raw}}
    known = {k: v for k, v in raw.items() if k in KEYWORDS and _FIRST_DRAFT.get(k, 0) <= draft}
    _check_values(known, number)
    normalised: dict[str, Any] = {}
    for keyword, value in known.items():
        _REWRITES.get(keyword, _keep)(normalised, keyword, value, known, child)
    return normalised


def _check_values(known: dict[str, JsonValue], number: int) -> None:
    for keyword, value in known.items():
        if not _is_valid_value(keyword, value):
            raise invalid(f"keyword {keyword} of subschema {number} has an invalid value")


def _is_valid_value(keyword: str, value: JsonValue) -> bool:
    if keyword in COUNT_KEYWORDS:
        return _is_number(value) and value >= 0 and value == int(value)
    if keyword in NUMERIC_KEYWORDS:
        return isinstance(value, bool) or (_is_number(value) and (keyword != "multipleOf" or value > 0))
    if keyword in SUBSCHEMA_MAPS or keyword in ("dependencies", "dependentRequired"):
        return isinstance(value, dict)
    if keyword in SUBSCHEMA_LISTS:
        return isinstance(value, list) and bool(value)
    if keyword == "required":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if keyword == "type":
        names = value if isinstance(value, list) else [value]
        return bool(names) and all(isinstance(name, str) and name in _PRIMITIVE_TYPES_OF for name in names)
    if keyword == "enum":
        return isinstance(value, list)
    return isinstance(value, str) if keyword in ("pattern", "$ref") else True


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Keywords = dict[str, Any]


def _keep(normalised: Keywords, keyword: str, value: JsonValue, known: Keywords, child: Child) -> None:
    if keyword in SUBSCHEMA_KEYWORDS:
        normalised[keyword] = child(value, f"/{keyword}")
    elif keyword in SUBSCHEMA_LISTS:
        normalised[keyword] = [child(item, f"/{keyword}/{i}") for i, item in enumerate(value)]
    elif keyword in SUBSCHEMA_MAPS:
        normalised[keyword] = {name: child(item, f"/{keyword}/{_escape(name)}") for name, item in value.items()}
    elif keyword in COUNT_KEYWORDS:
        normalised[keyword] = int(value)
    else:
        normalised[keyword] = value


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _type(normalised: Keywords, _: str, value: JsonValue, known: Keywords, child: Child) -> None:
    names = value if isinstance(value, list) else [value]
    normalised["type"] = frozenset().union(*(_PRIMITIVE_TYPES_OF[name] for name in names))


def _const(normalised: Keywords, _: str, value: JsonValue, known: Keywords, child: Child) -> None:
    normalised["const"] = [value]


def _minimum(normalised: Keywords, _: str, value: JsonValue, known: Keywords, child: Child) -> None:
    normalised["exclusiveMinimum" if known.get("exclusiveMinimum") is True else "minimum"] = value


def _maximum(normalised: Keywords, _: str, value: JsonValue, known: Keywords, child: Child) -> None:
    normalised["exclusiveMaximum" if known.get("exclusiveMaximum") is True else "maximum"] = value


def _exclusive(normalised: Keywords, keyword: str, value: JsonValue, known: Keywords, child: Child) -> None:
    if not isinstance(value, bool):
        normalised[keyword] = value


def _items(normalised: Keywords, keyword: str, value: JsonValue, known: Keywords, child: Child) -> None:
    """A list of schemas is a tuple (up to 2019-09); `additionalItems` then applies to the other items."""
    if not isinstance(value, list):
        normalised["items"] = child(value, "/items")
        return
    normalised["prefixItems"] = [child(item, f"/items/{i}") for i, item in enumerate(value)]
    if "additionalItems" in known:
        normalised["items"] = child(known["additionalItems"], "/additionalItems")


def _ignore(normalised: Keywords, keyword: str, value: JsonValue, known: Keywords, child: Child) -> None:
    """Handled elsewhere, or without effect."""


def _dependencies(normalised: Keywords, keyword: str, value: JsonValue, known: Keywords, child: Child) -> None:
    """Split into dependentRequired and dependentSchemas, as in 2019-09."""
    for name, needed in value.items():
        if isinstance(needed, list):
            normalised.setdefault("dependentRequired", {})[name] = needed
        else:
            schemas = normalised.setdefault("dependentSchemas", {})
            schemas[name] = child(needed, f"/dependencies/{_escape(name)}")


_REWRITES: dict[str, Callable[[Keywords, str, JsonValue, Keywords, Child], None]] = {
    "type": _type,
    "const": _const,
    "minimum": _minimum,
    "maximum": _maximum,
    "exclusiveMinimum": _exclusive,
    "exclusiveMaximum": _exclusive,
    "items": _items,
    "additionalItems": _ignore,
    "dependencies": _dependencies,
    "$id": _ignore,
    "id": _ignore,
    "$anchor": _ignore,
    "$dynamicAnchor": _ignore,
    "$schema": _ignore,
}
