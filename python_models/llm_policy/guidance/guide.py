"""Resolves what a client asked for, a registered schema or an inline guide, to a `Guide`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from llm_policy.errors import Code, InvalidRequest, invalid_input
from llm_policy.release.manifest import Guidance

GUIDE_TYPES = ("json", "json_schema", "regex", "ebnf_grammar", "choice")


class Guide(NamedTuple):
    """A guide as the client sent it; `name` is the registered schema's name, empty for an inline guide."""

    kind: str
    text: str
    name: str = ""


class EngineGuide(NamedTuple):
    """A guide as the engine receives it."""

    engine_type: str
    """Always one of the engine's guide types; `ebnf_grammar` for every planned guide."""
    engine_text: str
    """The grammar's text."""
    schema_id: str
    """The registered schema's name, or `sha256:` and 16 hex digits for an inline guide."""


class GuideResolver:
    """Turns a row's `schema_id`, or its guide type and guide, into a `Guide`, without compiling it."""

    def __init__(self, guidance: Guidance, schemas: Mapping[str, str]) -> None:
        self._guidance = guidance
        self._registry = {name: Guide("json_schema", text, name) for name, text in schemas.items()}

    @property
    def registered(self) -> Mapping[str, Guide]:
        """Name → guide of every schema in the manifest."""
        return self._registry

    def resolve(
        self, schema_id: str | None, guide_type: str | None, guide: str | None, default: str | None
    ) -> Guide | None:
        """The guide of one row; None if it is unguided. An empty text counts as not given.

        `default` is the task's registered schema; the client's choice overrides it. A guide that can't be used is an
        error and never ignored.

        Raises:
            InvalidRequest: `invalid_input`, `unknown_schema`, `unknown_guide_type`, `schema_invalid` or
                `schema_too_complex`.
        """
        if guide_type or guide:
            if schema_id:
                raise invalid_input("schema_id and a guide were both given, at most one is allowed")
            return self._inline_guide(guide_type, guide or "")
        name = schema_id or default
        if not name:
            return None
        if name not in self._registry:
            known = ", ".join(sorted(self._registry)) or "none"
            raise InvalidRequest(Code.UNKNOWN_SCHEMA, f"schema_id is not registered in this release (known: {known})")
        return self._registry[name]

    def _inline_guide(self, guide_type: str | None, text: str) -> Guide:
        if not guide_type:
            raise invalid_input("guided_decoding_guide was given without guided_decoding_guide_type")
        if guide_type not in GUIDE_TYPES:
            raise InvalidRequest(
                Code.UNKNOWN_GUIDE_TYPE,
                f"guided_decoding_guide_type is not one of {', '.join(GUIDE_TYPES)}",
            )
        if not self._guidance.allow_adhoc:
            raise InvalidRequest(
                Code.SCHEMA_INVALID, "inline guides are disabled (guidance.allow_adhoc false): use a schema_id"
            )
        self._check_text(guide_type, text)
        return Guide(guide_type, text)

    def _check_text(self, guide_type: str, text: str) -> None:
        if guide_type == "json":
            if text:
                raise invalid_input("guide type json takes no guide, but guided_decoding_guide was given")
            return
        if not text:
            raise invalid_input(f"guide type {guide_type} requires guided_decoding_guide, which was not given")
        limit = self._guidance.limits.max_bytes
        if (given := len(text.encode())) > limit:
            raise InvalidRequest(Code.SCHEMA_TOO_COMPLEX, f"guide has {given} bytes, limit {limit} (max_bytes)")
