"""The client's schema as a graph: every subschema a node, every local reference an edge.

Built without recursion. References stay inside the document (JSON Pointer fragments, anchors, the document's own
`$id`s); anything else is refused, nothing is ever fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from llm_policy.guidance.json_reader import JsonValue, write_json
from llm_policy.guidance.json_schema.subschema import NEVER, Subschema, normalise
from llm_policy.guidance.limits import check_limit, invalid
from llm_policy.release.guide_limits import GuideLimits


@dataclass(eq=False)
class _Place:
    """Where a raw schema stands: its node, and the resource (`$id`) that its references start from."""

    raw: JsonValue
    node: Subschema
    base: str


class Document:
    """All subschemas of one text. Raises `schema_invalid` and `schema_too_complex` while it is built."""

    def __init__(self, raw: JsonValue, draft: int, limits: GuideLimits) -> None:
        self.draft = draft
        self._limits = limits
        self._places: dict[int, _Place] = {}
        self._waiting: list[_Place] = []
        self._resources: dict[str, JsonValue] = {"": raw}
        self._anchors: dict[tuple[str, str], JsonValue] = {}
        self._references: list[_Place] = []
        self._count = 0
        self._derived = 0
        self.root = self._node(raw, "", "")
        self._survey()
        while self._references:
            self._resolve(self._references.pop())
            self._survey()

    def synthetic(self, keywords: dict[str, Any], pointer: str) -> Subschema:
        """A node of our own making (a negation, a piece of a combinator)."""
        self._derived += 1
        check_limit("subschemas after negation", self._derived, 4 * self._limits.max_subschemas)
        return Subschema(self._count + self._derived, pointer, keywords)

    def _next_number(self) -> int:
        self._count += 1
        check_limit("number of subschemas", self._count, self._limits.max_subschemas)
        return self._count - 1

    def _node(self, raw: JsonValue, pointer: str, base: str) -> Subschema:
        if isinstance(raw, bool):
            return Subschema(self._next_number(), pointer, {} if raw else dict(NEVER))
        if not isinstance(raw, dict):
            raise invalid(f"subschema {self._count} is neither an object nor a boolean")
        if id(raw) in self._places:
            return self._places[id(raw)].node
        place = _Place(raw, Subschema(self._next_number(), pointer), self._base(raw, base))
        self._places[id(raw)] = place
        self._waiting.append(place)
        return place.node

    def _base(self, raw: dict[str, JsonValue], base: str) -> str:
        """The base for references inside `raw`; remembers its `$id` and its anchors."""
        name = raw.get("id" if self.draft == 4 else "$id")
        if isinstance(name, str) and not (self.draft <= 7 and "$ref" in raw):
            address, fragment = _split(name)
            if address and (base != "" or raw is not self._resources[""]):
                base = _join(base, address)
                self._resources.setdefault(base, raw)
            elif address:
                base = address
                self._resources[base] = raw
            if fragment:
                self._anchors.setdefault((base, fragment), raw)
        for keyword in ("$anchor", "$dynamicAnchor"):
            anchor = raw.get(keyword)
            if isinstance(anchor, str):
                self._anchors.setdefault((base, anchor), raw)
        return base

    def _survey(self) -> None:
        while self._waiting:
            place = self._waiting.pop()
            self._check_sizes(place)
            found = normalise(
                place.raw,
                self.draft,
                place.node.number,
                lambda raw, suffix, place=place: self._node(raw, place.node.pointer + suffix, place.base),  # type: ignore[misc]
            )
            place.node.keywords = found
            if "$ref" in found:
                self._references.append(place)

    def _check_sizes(self, place: _Place) -> None:
        limits, raw = self._limits, place.raw
        for keyword in ("properties", "patternProperties", "required"):
            value = raw.get(keyword)
            if isinstance(value, dict | list):
                check_limit(f"{keyword} of subschema {place.node.number}", len(value), limits.max_properties)
                for name in value:
                    self._check_text("a property name", name)
        self._check_text("a pattern", raw.get("pattern"))
        self._check_values(raw.get("enum"), place.node.number)
        self._check_values([raw["const"]] if "const" in raw else None, place.node.number)

    def _check_text(self, what: str, text: JsonValue) -> None:
        if isinstance(text, str):
            check_limit(f"size of {what} in bytes", len(text.encode()), self._limits.max_string_bytes)

    def _check_values(self, values: JsonValue, number: int) -> None:
        if isinstance(values, list):
            check_limit(f"enum entries of subschema {number}", len(values), self._limits.max_enum_entries)
            size = len(write_json(values).encode())
            check_limit(f"enum size in bytes of subschema {number}", size, self._limits.max_enum_bytes)

    def _resolve(self, place: _Place) -> None:
        reference = place.node.keywords["$ref"]
        address, fragment = _split(reference)
        base = _join(place.base, address) if address else place.base
        resource = self._resources.get(base, self._resources[""] if base == "" else None)
        if resource is None:
            raise invalid(f"$ref of subschema {place.node.number} leaves the document")
        target = self._find(resource, base, unquote(fragment))
        if target is None:
            raise invalid(f"$ref of subschema {place.node.number} points to nothing")
        place.node.keywords["$ref"] = self._node(target, f"#{fragment}", base)

    def _find(self, resource: JsonValue, base: str, fragment: str) -> JsonValue | None:
        if fragment == "":
            return resource
        if not fragment.startswith("/"):
            return self._anchors.get((base, fragment))
        for step in fragment[1:].split("/"):
            resource = _step(resource, step.replace("~1", "/").replace("~0", "~"))
        return resource


def _split(reference: str) -> tuple[str, str]:
    try:
        address, fragment = urldefrag(reference)
    except ValueError:
        raise invalid("an identifier or a reference is no URI") from None
    return address, fragment


def _join(base: str, address: str) -> str:
    try:
        return urljoin(base, address)
    except ValueError:
        raise invalid("an identifier or a reference is no URI") from None


def _step(value: JsonValue, name: str) -> JsonValue | None:
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, list) and name.isascii() and name.isdigit() and int(name) < len(value):
        return value[int(name)]
    return None
