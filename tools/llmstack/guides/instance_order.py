"""Whether an instance has only declared properties, in the order in which its schema declares them.

This is a simple interpretation of a schema, independent of the measured planner: the declared names of an object are
those in `properties` of every branch that applies to it, in the order of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

_LISTS = ("allOf", "anyOf", "oneOf")
_SINGLE = ("if", "then", "else")
_MAPS = ("dependencies", "dependentSchemas")
MAX_SCHEMAS = 200
"""Limit of subschemas that apply to one value."""


def follows_declaration(schema: Any, instance: Any) -> bool:
    """Whether no object of the instance has an undeclared property, or properties out of order."""
    return _follows(schema, [schema], instance)


def _follows(root: Any, schemas: list[Any], instance: Any) -> bool:
    applicable = _expanded(root, schemas)
    if isinstance(instance, dict):
        return _members_follow(root, applicable, instance)
    if isinstance(instance, list):
        return all(_follows(root, list(_item_schemas(applicable, i)), item) for i, item in enumerate(instance))
    return True


def _expanded(root: Any, schemas: list[Any]) -> list[dict[str, Any]]:
    """The schemas with all schemas of their references and combinators, in the order of the text."""
    found: list[dict[str, Any]] = []
    pending = list(schemas)
    while pending and len(found) < MAX_SCHEMAS:
        schema = pending.pop(0)
        if not isinstance(schema, dict) or any(schema is other for other in found):
            continue
        found.append(schema)
        pending[:0] = list(_branches(root, schema))
    return found


def _branches(root: Any, schema: dict[str, Any]) -> Iterator[Any]:
    for keyword, value in schema.items():
        if keyword == "$ref":
            yield _target(root, value)
        elif keyword in _LISTS and isinstance(value, list):
            yield from value
        elif keyword in _SINGLE:
            yield value
        elif keyword in _MAPS and isinstance(value, dict):
            yield from value.values()


def _target(root: Any, reference: Any) -> Any:
    _, _, fragment = str(reference).partition("#")
    for step in unquote(fragment).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(root, list):
            root = root[int(name)] if name.isdigit() and int(name) < len(root) else None
        else:
            root = root.get(name) if isinstance(root, dict) else None
    return root


def _members_follow(root: Any, schemas: list[dict[str, Any]], instance: dict[str, Any]) -> bool:
    declared, patterns = _declared(schemas), _patterns(schemas)
    positions = [_position(name, declared, patterns) for name in instance]
    if (declared or patterns) and (-1 in positions or positions != sorted(positions)):
        return False
    if not declared and not _required_come_first(schemas, instance):
        return False
    return all(_follows(root, _member_schemas(schemas, name), value) for name, value in instance.items())


def _declared(schemas: list[dict[str, Any]]) -> dict[str, int]:
    names: dict[str, int] = {}
    for schema in schemas:
        properties = schema.get("properties")
        for name in properties if isinstance(properties, dict) else ():
            names.setdefault(name, len(names))
    return names


def _patterns(schemas: list[dict[str, Any]]) -> list[str]:
    return [pattern for schema in schemas for pattern in schema.get("patternProperties", {})]


def _required_come_first(schemas: list[dict[str, Any]], instance: dict[str, Any]) -> bool:
    """If no property is declared, the required ones count as declared: they come first, in their order."""
    required = _required_names(schemas)
    positions = [required.get(name, len(required)) for name in instance]
    return positions == sorted(positions)


def _required_names(schemas: list[dict[str, Any]]) -> dict[str, int]:
    names: dict[str, int] = {}
    for schema in schemas:
        maps = [schema.get("dependentRequired", {}), schema.get("dependencies", {})]
        lists = [schema.get("required", []), *([k, *v] for m in maps for k, v in m.items() if isinstance(v, list))]
        for name in (name for found in lists if isinstance(found, list) for name in found):
            names.setdefault(name, len(names))
    return names


def _position(name: str, declared: dict[str, int], patterns: list[str]) -> int:
    """The position of a declared name; names that match a pattern come last; -1 for an undeclared name."""
    if name in declared:
        return declared[name]
    return len(declared) if any(_is_found(pattern, name) for pattern in patterns) else -1


def _member_schemas(schemas: list[dict[str, Any]], name: str) -> list[Any]:
    found = []
    for schema in schemas:
        own = [schema["properties"][name]] if name in schema.get("properties", {}) else []
        own += [s for pattern, s in schema.get("patternProperties", {}).items() if _is_found(pattern, name)]
        found += own or ([schema["additionalProperties"]] if "additionalProperties" in schema else [])
    return found


def _is_found(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return True


def _item_schemas(schemas: list[dict[str, Any]], index: int) -> Iterator[Any]:
    for schema in schemas:
        items = schema.get("items")
        prefix = schema.get("prefixItems", items if isinstance(items, list) else [])
        if index < len(prefix):
            yield prefix[index]
        elif isinstance(items, list):
            yield schema.get("additionalItems")
        else:
            yield items
