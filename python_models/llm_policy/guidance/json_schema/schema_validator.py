"""Validates JSON against a client's schema, in the draft that its `$schema` names.

A schema that names no draft is read as 2020-12, or as an older draft if only that one can read it. Formats are
asserted, in every draft all those that 2020-12 knows: otherwise `schema_valid` would be true for a date that is any
text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jsonschema_rs

from llm_policy.guidance.json_reader import JsonValue
from llm_policy.guidance.json_schema.subschema import KEYWORDS
from llm_policy.guidance.limits import invalid

LATER_FORMATS = (
    "uuid",
    "duration",
    "iri",
    "iri-reference",
    "uri-reference",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
    "regex",
    "idn-hostname",
    "idn-email",
    "date",
    "time",
)
"""Formats that some draft before 2020-12 does not know."""


def _format_check(name: str) -> Callable[[str], bool]:
    return jsonschema_rs.Draft202012Validator({"format": name}, validate_formats=True).is_valid


_LATER_CHECKS = {name: _format_check(name) for name in LATER_FORMATS}


class Draft(int, Enum):
    """The supported drafts of JSON Schema, oldest first."""

    DRAFT_4 = 4
    DRAFT_6 = 6
    DRAFT_7 = 7
    DRAFT_2019_09 = 2019
    DRAFT_2020_12 = 2020


_VALIDATORS: dict[Draft, Callable[..., Any]] = {
    Draft.DRAFT_4: jsonschema_rs.Draft4Validator,
    Draft.DRAFT_6: jsonschema_rs.Draft6Validator,
    Draft.DRAFT_7: jsonschema_rs.Draft7Validator,
    Draft.DRAFT_2019_09: jsonschema_rs.Draft201909Validator,
    Draft.DRAFT_2020_12: jsonschema_rs.Draft202012Validator,
}
_DRAFT_URI = re.compile(r"^https?://json-schema\.org/draft[-/](?:0?([467])|(20\d\d)-\d\d)/schema#?$")
_DEFAULT_DRAFTS = (Draft.DRAFT_2020_12, Draft.DRAFT_7, Draft.DRAFT_4)
"""Tried in this order if the schema names no known draft: the newest, then those whose spellings are still common."""


@dataclass(frozen=True)
class SchemaValidator:
    """A compiled schema and the draft whose rules apply to it."""

    draft: Draft
    _compiled: Any

    def is_valid(self, instance: JsonValue) -> bool:
        """Whether the schema allows `instance`."""
        return bool(self._compiled.is_valid(instance))


def build_schema_validator(schema: JsonValue) -> SchemaValidator:
    """The validator of one schema.

    Raises:
        InvalidRequest: `schema_invalid`, no draft can read the schema.
    """
    first_error: Exception | None = None
    for draft in _candidate_drafts(schema):
        try:
            compiled = _VALIDATORS[draft](schema, validate_formats=True, formats=_LATER_CHECKS, offline=True)
        except (ValueError, jsonschema_rs.ReferencingError) as error:  # noqa: PERF203 - three at most
            first_error = first_error or error
        else:
            return SchemaValidator(draft, compiled)
    raise invalid(_broken_rule(first_error))


def _candidate_drafts(schema: JsonValue) -> tuple[Draft, ...]:
    uri = schema.get("$schema") if isinstance(schema, dict) else None
    match = _DRAFT_URI.match(uri) if isinstance(uri, str) else None
    number = int(match.group(1) or match.group(2)) if match else 0
    return (Draft(number),) if number in set(Draft) else _DEFAULT_DRAFTS


def _broken_rule(error: Exception | None) -> str:
    """Names the wrong keyword, never its value or the client's names on the path to it."""
    path = getattr(error, "instance_path", [])
    keyword = next((str(step) for step in reversed(path) if step in KEYWORDS), None)
    where = f"keyword {keyword} does not follow" if keyword else "the schema does not follow"
    return f"{where} the rules of its draft"
