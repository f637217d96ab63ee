"""The client's schema as a graph: every subschema is a node, every local reference an edge.

It is built without recursion. References must stay inside the document (JSON Pointer fragments, anchors, the document's
own `$id`s); nothing is ever fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from llm_policy.guidance.json_reader import JsonValue, write_json
from llm_policy.guidance.json_schema.subschema import NEVER, Subschema, normalise
from llm_policy.guidance.limits import check_limit, invalid
from llm_policy.release.guide_limits import GuideLimits


@dataclass(eq=False)
class _SchemaLocation:
    """A raw schema, its node, and the base URI of its references (from `$id`)."""

    raw: JsonValue
    node: Subschema
    base_uri: str


class Document:
    """All subschemas of one document."""

    def __init__(self, raw: JsonValue, draft: int, limits: GuideLimits) -> None:
        """Build the graph.

        Raises:
            InvalidRequest: `schema_invalid` or `schema_too_complex`.
        """
        self.draft = draft
        self._limits = limits
        self._locations: dict[int, _SchemaLocation] = {}
        self._pending: list[_SchemaLocation] = []
        self._resources: dict[str, JsonValue] = {"": raw}
        self._anchors: dict[tuple[str, str], JsonValue] = {}
        self._references: list[_SchemaLocation] = []
        self._num_nodes = 0
        self._num_synthetic = 0
        self.root = self._node(raw, "", "")
        self._normalise_pending()
        while self._references:
            self._resolve(self._references.pop())
            self._normalise_pending()

    def synthetic(self, keywords: dict[str, Any], pointer: str) -> Subschema:
        """A node that is not in the client's document: a negation or a part of a combinator."""
        self._num_synthetic += 1
        check_limit("subschemas after negation", self._num_synthetic, 4 * self._limits.max_subschemas)
        return Subschema(self._num_nodes + self._num_synthetic, pointer, keywords)

    def _next_number(self) -> int:
        self._num_nodes += 1
        check_limit("number of subschemas", self._num_nodes, self._limits.max_subschemas)
        return self._num_nodes - 1

    def _node(self, raw: JsonValue, pointer: str, base_uri: str) -> Subschema:
        if isinstance(raw, bool):
            return Subschema(self._next_number(), pointer, {} if raw else dict(NEVER))
        if not isinstance(raw, dict):
            raise invalid(f"subschema {self._num_nodes} is neither an object nor a boolean")
        if id(raw) in self._locations:
            return self._locations[id(raw)].node
        location = _SchemaLocation(raw, Subschema(self._next_number(), pointer), self._base_uri_of(raw, base_uri))
        self._locations[id(raw)] = location
        self._pending.append(location)
        return location.node

    def _base_uri_of(self, raw: dict[str, JsonValue], base_uri: str) -> str:
        """The base URI of references inside `raw`; records its `$id` and its anchors."""
        name = raw.get("id" if self.draft == 4 else "$id")
        if isinstance(name, str) and not (self.draft <= 7 and "$ref" in raw):
            address, fragment = _split(name)
            if address and (base_uri != "" or raw is not self._resources[""]):
                base_uri = _join(base_uri, address)
                self._resources.setdefault(base_uri, raw)
            elif address:
                base_uri = address
                self._resources[base_uri] = raw
            if fragment:
                self._anchors.setdefault((base_uri, fragment), raw)
        for keyword in ("$anchor", "$dynamicAnchor"):
            anchor = raw.get(keyword)
            if isinstance(anchor, str):
                self._anchors.setdefault((base_uri, anchor), raw)
        return base_uri

    def _normalise_pending(self) -> None:
        while self._pending:
            location = self._pending.pop()
            self._check_sizes(location)
            keywords = normalise(location.raw, self.draft, location.node.number, partial(self._child, location))
            location.node.keywords = keywords
            if "$ref" in keywords:
                self._references.append(location)

    def _child(self, location: _SchemaLocation, raw: JsonValue, suffix: str) -> Subschema:
        return self._node(raw, location.node.pointer + suffix, location.base_uri)

    def _check_sizes(self, location: _SchemaLocation) -> None:
        limits, raw = self._limits, location.raw
        for keyword in ("properties", "patternProperties", "required"):
            value = raw.get(keyword)
            if isinstance(value, dict | list):
                check_limit(f"{keyword} of subschema {location.node.number}", len(value), limits.max_properties)
                for name in value:
                    self._check_text("a property name", name)
        self._check_text("a pattern", raw.get("pattern"))
        self._check_values(raw.get("enum"), location.node.number)
        self._check_values([raw["const"]] if "const" in raw else None, location.node.number)

    def _check_text(self, what: str, text: JsonValue) -> None:
        if isinstance(text, str):
            check_limit(f"size of {what} in bytes", len(text.encode()), self._limits.max_string_bytes)

    def _check_values(self, values: JsonValue, number: int) -> None:
        if isinstance(values, list):
            check_limit(f"enum entries of subschema {number}", len(values), self._limits.max_enum_entries)
            size = len(write_json(values).encode())
            check_limit(f"enum size in bytes of subschema {number}", size, self._limits.max_enum_bytes)

    def _resolve(self, location: _SchemaLocation) -> None:
        reference = location.node.keywords["$ref"]
        address, fragment = _split(reference)
        base_uri = _join(location.base_uri, address) if address else location.base_uri
        resource = self._resources.get(base_uri, self._resources[""] if base_uri == "" else None)
        if resource is None:
            raise invalid(f"$ref of subschema {location.node.number} points outside the document")
        target = self._find(resource, base_uri, unquote(fragment))
        if target is None:
            raise invalid(f"$ref of subschema {location.node.number} points to nothing")
        location.node.keywords["$ref"] = self._node(target, f"#{fragment}", base_uri)

    def _find(self, resource: JsonValue, base_uri: str, fragment: str) -> JsonValue | None:
        if fragment == "":
            return resource
        if not fragment.startswith("/"):
            return self._anchors.get((base_uri, fragment))
        for step in fragment[1:].split("/"):
            resource = _step(resource, step.replace("~1", "/").replace("~0", "~"))
        return resource


def _split(reference: str) -> tuple[str, str]:
    try:
        address, fragment = urldefrag(reference)
    except ValueError:
        raise invalid("an identifier or a reference is not a URI") from None
    return address, fragment


def _join(base_uri: str, address: str) -> str:
    try:
        return urljoin(base_uri, address)
    except ValueError:
        raise invalid("an identifier or a reference is not a URI") from None


def _step(value: JsonValue, name: str) -> JsonValue | None:
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
        return value[int(name)]
    return None
