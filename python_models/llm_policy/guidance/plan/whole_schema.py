"""A client's schema as text for a library that reads JSON Schema itself."""

from __future__ import annotations

from llm_policy.guidance.json_reader import JsonValue
from llm_policy.guidance.json_schema.formats import ASSERTED_WITHOUT_PATTERN, FORMAT_PATTERNS
from llm_policy.guidance.json_schema.subschema import SUBSCHEMA_KEYWORDS, SUBSCHEMA_LISTS, SUBSCHEMA_MAPS

LIBRARY_OPTIONS = "x-guidance"
"""llguidance reads options from this keyword, `lenient` among them: a client must not set them."""
_ASSERTED_FORMATS = frozenset(FORMAT_PATTERNS) | frozenset(ASSERTED_WITHOUT_PATTERN)


def whole_schema(schema: JsonValue) -> JsonValue:
    """The schema without the formats that are annotations and without options for the library.

    Everything else stays as it is, properties with such names and listed values included.
    """
    if not isinstance(schema, dict):
        return schema
    return {
        keyword: _value(keyword, value)
        for keyword, value in schema.items()
        if keyword != LIBRARY_OPTIONS and (keyword != "format" or value in _ASSERTED_FORMATS)
    }


def _value(keyword: str, value: JsonValue) -> JsonValue:
    if keyword in SUBSCHEMA_MAPS or keyword == "dependencies":
        return {name: whole_schema(item) for name, item in value.items()} if isinstance(value, dict) else value
    if keyword in SUBSCHEMA_LISTS or (keyword == "items" and isinstance(value, list)):
        return [whole_schema(item) for item in value] if isinstance(value, list) else value
    if keyword in SUBSCHEMA_KEYWORDS:
        return whole_schema(value)
    return value
