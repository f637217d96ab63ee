"""Checks a finished answer against what the client asked for. The promise behind `schema_valid`."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import orjson

from llm_policy.guidance.json_reader import read_json
from llm_policy.guidance.json_schema.schema_validator import build_schema_validator
from llm_policy.release.guide_limits import GuideLimits

MAX_VALIDATORS = 256


class AnswerValidator:
    """Judges answers; keeps the last `MAX_VALIDATORS` schemas ready."""

    def __init__(self, limits: GuideLimits | None = None) -> None:
        self._limits = limits or GuideLimits()
        self._validators: OrderedDict[str, Any] = OrderedDict()

    def is_valid(self, kind: str, guide_text: str, answer: str, *, complete: bool) -> bool:
        """Whether `answer` is what the guide (`kind`, `guide_text`) asked for, as the client sent it.

        An answer that was cut off (`complete` false) is never valid. For `regex` and `ebnf_grammar` a complete
        answer is one whose grammar the engine itself brought to its end.
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
        return kind == "json" or bool(self._validator(guide_text).is_valid(value))

    def _validator(self, schema_text: str) -> Any:
        validator = self._validators.get(schema_text)
        if validator is None:
            validator = self._validators[schema_text] = build_schema_validator(
                read_json(schema_text, self._limits)
            ).validator
            if len(self._validators) > MAX_VALIDATORS:
                self._validators.popitem(last=False)
        else:
            self._validators.move_to_end(schema_text)
        return validator
