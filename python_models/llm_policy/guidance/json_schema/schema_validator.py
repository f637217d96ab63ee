"""Is this JSON what the client's schema asks for? The one judge, used on what the engine produced.

The client's own schema is the law, in the draft its `$schema` names (2020-12 when it names none, an older one when
only that can read it). Formats are asserted, in every draft the ones that 2020-12 knows: a promise of validity
would be hollow if a date could be any text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, Protocol

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


class Validator(Protocol):
    """What a built validator offers."""

    def is_valid(self, instance: Any) -> bool:
        """Whether the instance is allowed."""


def _format_check(name: str) -> Callable[[str], bool]:
    return jsonschema_rs.Draft202012Validator({"format": name}, validate_formats=True).is_valid


_LATER_CHECKS = {name: _format_check(name) for name in LATER_FORMATS}


class Draft(int, Enum):
    """The drafts whose rules are followed, in order of age."""

    DRAFT_4 = 4
    DRAFT_6 = 6
    DRAFT_7 = 7
    DRAFT_2019_09 = 2019
    DRAFT_2020_12 = 2020


_VALIDATORS: dict[Draft, Callable[..., Validator]] = {
    Draft.DRAFT_4: jsonschema_rs.Draft4Validator,
    Draft.DRAFT_6: jsonschema_rs.Draft6Validator,
    Draft.DRAFT_7: jsonschema_rs.Draft7Validator,
    Draft.DRAFT_2019_09: jsonschema_rs.Draft201909Validator,
    Draft.DRAFT_2020_12: jsonschema_rs.Draft202012Validator,
}
_NAMED = re.compile(r"^https?://json-schema\.org/draft[-/](?:0?([467])|(20\d\d)-\d\d)/schema#?$")
_UNNAMED = (Draft.DRAFT_2020_12, Draft.DRAFT_7, Draft.DRAFT_4)
"""Tried in this order when the schema names no known draft: the newest, then those whose spellings are still common."""


class SchemaValidator(NamedTuple):
    """A built validator and the draft whose rules it applies."""

    draft: Draft
    validator: Validator


def _candidates(schema: JsonValue) -> tuple[Draft, ...]:
    named = schema.get("$schema") if isinstance(schema, dict) else None
    match = _NAMED.match(named) if isinstance(named, str) else None
    year = int(match.group(1) or match.group(2)) if match else 0
    return (Draft(year),) if year in set(Draft) else _UNNAMED


def build_schema_validator(schema: JsonValue) -> SchemaValidator:
    """The judge for one schema. Raises `schema_invalid` when no draft can read the schema."""
    fault: Exception | None = None
    for draft in _candidates(schema):
        try:
            validator = _VALIDATORS[draft](schema, validate_formats=True, formats=_LATER_CHECKS, offline=True)
        except (ValueError, jsonschema_rs.ReferencingError) as error:  # noqa: PERF203 - three at most
            fault = fault or error
        else:
            return SchemaValidator(draft, validator)
    raise invalid(_rule(fault))


def _rule(fault: Exception | None) -> str:
    """Which keyword is wrong, by its own name and never by its value or its place's names."""
    path = getattr(fault, "instance_path", [])
    keyword = next((str(step) for step in reversed(path) if step in KEYWORDS), None)
    where = f"keyword {keyword} does not follow" if keyword else "the schema does not follow"
    return f"{where} the rules of its draft"
