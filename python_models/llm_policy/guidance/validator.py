"""Checks a finished answer against what the client asked for. The promise behind `schema_valid`."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import jsonschema_rs
import orjson

from llm_policy.errors import Code, InvalidRequest

MAX_VALIDATORS = 256
# A hostile pattern stops here instead of backtracking for ever.
_PATTERNS = jsonschema_rs.FancyRegexOptions(backtrack_limit=100_000)


def build_validator(schema_text: str) -> Any:
    """A jsonschema-rs validator of the draft that `$schema` names; it never fetches anything.

    Raises:
        InvalidRequest: `schema_invalid`; the text never quotes the schema.
    """
    try:
        return jsonschema_rs.validator_for(orjson.loads(schema_text), offline=True, pattern_options=_PATTERNS)
    except Exception as error:
        reason = "refers to another document" if isinstance(error, jsonschema_rs.ReferencingError) else "is no schema"
        raise InvalidRequest(Code.SCHEMA_INVALID, f"guide {reason} that its own draft of JSON Schema allows") from None


def check_validator(schema_text: str) -> None:
    """`build_validator`, for its refusals alone."""
    build_validator(schema_text)


class AnswerValidator:
    """Judges answers; keeps the last `MAX_VALIDATORS` compiled schemas."""

    def __init__(self) -> None:
        self._validators: OrderedDict[str, Any] = OrderedDict()

    def is_valid(self, kind: str, guide_text: str, answer: str, *, complete: bool) -> bool:
        """Whether `answer` is what the guide (`kind`, `guide_text`) asked for.

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
            validator = self._validators[schema_text] = build_validator(schema_text)
            if len(self._validators) > MAX_VALIDATORS:
                self._validators.popitem(last=False)
        else:
            self._validators.move_to_end(schema_text)
        return validator
