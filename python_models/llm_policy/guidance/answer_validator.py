"""Checks a finished answer against the guide that the client sent; the result is `schema_valid`."""

from __future__ import annotations

import orjson
from cachetools import LRUCache

from llm_policy.guidance.json_reader import read_json
from llm_policy.guidance.json_schema.schema_validator import SchemaValidator, build_schema_validator
from llm_policy.release.guide_limits import GuideLimits

MAX_VALIDATORS = 256


class AnswerValidator:
    """Validates answers; keeps the validators of the last `MAX_VALIDATORS` schemas."""

    def __init__(self, limits: GuideLimits | None = None) -> None:
        self._limits = limits or GuideLimits()
        self._validators: LRUCache[str, SchemaValidator] = LRUCache(MAX_VALIDATORS)

    def is_valid(self, kind: str, guide_text: str, answer: str, *, complete: bool) -> bool:
        """Whether `answer` satisfies the guide (`kind`, `guide_text`) as the client sent it.

        A truncated answer (`complete` false) is never valid. A complete answer to `regex` or `ebnf_grammar` is valid,
        because the engine ends it only where the grammar allows.
        """
        if not complete:
            return False
        if kind in ("regex", "ebnf_grammar"):
            return True
        if kind == "choice":
            return answer in orjson.loads(guide_text)
        try:
            value = orjson.loads(answer)
        except orjson.JSONDecodeError:
            return False
        return kind == "json" or self._validator(guide_text).is_valid(value)

    def _validator(self, schema_text: str) -> SchemaValidator:
        validator = self._validators.get(schema_text)
        if validator is None:
            validator = build_schema_validator(read_json(schema_text, self._limits))
            self._validators[schema_text] = validator
        return validator
