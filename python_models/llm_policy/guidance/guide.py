"""What a client asked the answer to look like, resolved to the guide that the engine gets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from llm_policy.errors import Code, InvalidRequest
from llm_policy.guidance.validator import check_validator
from llm_policy.manifest import Guidance

GUIDE_TYPES = ("json", "json_schema", "regex", "ebnf_grammar", "choice")
MAX_CHOICES = 1_000


class Guide(NamedTuple):
    """A guide: what was asked (`kind`, `text`) and what the engine gets (`engine_type`, `engine_text`).

    `schema_id` is the registry's name, or `sha256:` and the first 16 hex digits over the kind and canonical text.
    """

    kind: str
    text: str
    engine_type: str
    engine_text: str
    schema_id: str

    @property
    def key(self) -> tuple[str, str]:
        """What a compile verdict depends on."""
        return self.engine_type, self.engine_text


class GuideResolver:
    """Turns a row's `schema_id`, or its guide type and guide, into a `Guide`.

    Raises:
        InvalidRequest: at construction, for a registered schema that is no valid schema.
    """

    def __init__(self, guidance: Guidance, schemas: Mapping[str, str]) -> None:
        self._guidance = guidance
        self._registry = {name: _register(name, text) for name, text in schemas.items()}

    @property
    def registered(self) -> Mapping[str, Guide]:
        """Name → guide of every schema in the manifest."""
        return self._registry

    def resolve(
        self, schema_id: str | None, guide_type: str | None, guide: str | None, default: str | None
    ) -> Guide | None:
        """The guide of one row; None when it is unguided. An empty text counts as not given.

        `default` is the task's registered schema; what the client says goes before it.

        Raises:
            InvalidRequest: `invalid_input`, `unknown_schema`, `unknown_guide_type`, `schema_invalid` or
                `schema_too_complex`. No guide is ever dropped.
        """
        if guide_type or guide:
            if schema_id:
                raise _invalid("schema_id and a guide were both given, at most one is allowed")
            return self._adhoc(guide_type, guide or "")
        name = schema_id or default
        if not name:
            return None
        if name not in self._registry:
            known = ", ".join(sorted(self._registry)) or "none"
            raise InvalidRequest(Code.UNKNOWN_SCHEMA, f"schema_id is not registered in this release (there: {known})")
        return self._registry[name]

    def _adhoc(self, guide_type: str | None, text: str) -> Guide:
        if not guide_type:
            raise _invalid("guided_decoding_guide was given without guided_decoding_guide_type")
        if guide_type not in GUIDE_TYPES:
            raise InvalidRequest(
                Code.UNKNOWN_GUIDE_TYPE,
                f"guided_decoding_guide_type is not one of {', '.join(GUIDE_TYPES)}",
            )
        if not self._guidance.allow_adhoc:
            raise InvalidRequest(
                Code.SCHEMA_INVALID, "guides in requests are off (guidance.allow_adhoc false): name a schema_id"
            )
        self._check_size(guide_type, text)
        return _KINDS[guide_type](text, self._guidance)

    def _check_size(self, guide_type: str, text: str) -> None:
        if guide_type == "json":
            if text:
                raise _invalid("guide type json takes no guide, but guided_decoding_guide was given")
            return
        if not text:
            raise _invalid(f"guide type {guide_type} needs guided_decoding_guide, none was given")
        limit = self._guidance.limits.max_guide_bytes
        if (given := len(text.encode())) > limit:
            raise InvalidRequest(Code.SCHEMA_TOO_COMPLEX, f"guide has {given} bytes, limit {limit} (max_guide_bytes)")
        if "\0" in text:
            raise InvalidRequest(Code.SCHEMA_INVALID, "guide holds a NUL character")


def _json(text: str, guidance: Guidance) -> Guide:
    return Guide("json", "", "json", "", _adhoc_id("json", ""))


def _json_schema(text: str, guidance: Guidance) -> Guide:
    schema = _parse_json(text, guidance.limits.max_depth)
    if not isinstance(schema, (dict, bool)):
        raise InvalidRequest(Code.SCHEMA_INVALID, "a schema is a JSON object or a boolean")
    canonical = orjson.dumps(schema, option=orjson.OPT_SORT_KEYS).decode()
    return Guide("json_schema", text, "json_schema", text, _adhoc_id("json_schema", canonical))


def _regex(text: str, guidance: Guidance) -> Guide:
    return Guide("regex", text, "regex", text, _adhoc_id("regex", text))


def _ebnf(text: str, guidance: Guidance) -> Guide:
    return Guide("ebnf_grammar", text, "ebnf_grammar", text, _adhoc_id("ebnf_grammar", text))


def _choice(text: str, guidance: Guidance) -> Guide:
    """TensorRT-LLM knows no choice: the alternatives become one EBNF rule."""
    choices = _parse_json(text, guidance.limits.max_depth)
    if not isinstance(choices, list) or not all(isinstance(c, str) and c for c in choices):
        raise InvalidRequest(Code.SCHEMA_INVALID, "a choice guide is a JSON array of non-empty strings")
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise InvalidRequest(Code.SCHEMA_TOO_COMPLEX, f"choice has {len(choices)} entries, allowed 1 to {MAX_CHOICES}")
    ebnf = "root ::= " + " | ".join(_ebnf_literal(choice) for choice in dict.fromkeys(choices))
    return Guide("choice", text, "ebnf_grammar", ebnf, _adhoc_id("choice", orjson.dumps(choices).decode()))


_KINDS: dict[str, Callable[[str, Guidance], Guide]] = {
    "json": _json,
    "json_schema": _json_schema,
    "regex": _regex,
    "ebnf_grammar": _ebnf,
    "choice": _choice,
}


def _register(name: str, text: str) -> Guide:
    try:
        guide = _json_schema(text, Guidance())
        check_validator(text)
    except InvalidRequest as error:
        raise InvalidRequest(error.code, f"registered schema {name}: {error.detail}") from None
    return guide._replace(schema_id=name)


def _parse_json(text: str, max_depth: int) -> Any:
    if (depth := _depth(text)) > max_depth:
        raise InvalidRequest(Code.SCHEMA_TOO_COMPLEX, f"guide nests {depth} deep, limit {max_depth} (max_depth)")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            Code.SCHEMA_INVALID, f"guide is no valid JSON at line {error.lineno} column {error.colno}"
        ) from None


def _depth(text: str) -> int:
    """How deep brackets nest; those inside strings count too, which only makes the bound stricter."""
    depth = deepest = 0
    for char in text:
        if char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


def _ebnf_literal(text: str) -> str:
    """`text` as a quoted EBNF literal; everything but plain ASCII letters, digits and blanks as an escape."""
    return '"' + "".join(c if c.isascii() and (c.isalnum() or c == " ") else _escape(c) for c in text) + '"'


def _escape(char: str) -> str:
    point = ord(char)
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def _adhoc_id(kind: str, canonical: str) -> str:
    material = canonical if kind == "json_schema" else f"{kind}\n{canonical}"
    return "sha256:" + hashlib.sha256(material.encode()).hexdigest()[:16]


def _invalid(detail: str) -> InvalidRequest:
    return InvalidRequest(Code.INVALID_INPUT, detail)
