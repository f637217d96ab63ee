"""The registered schemas of an embedded release: three for generate_json, one each for ranking and judging.

Every string has a bounded length, so that every guided answer ends, even one of a model with random weights.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

from embedded_model.examples.generate_json import REGISTERED_SPECS, object_schema
from embedded_model.examples.judge import CHECKS
from embedded_model.examples.rank_candidates import LETTERS, MIN_CANDIDATES

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_MAX_VALUE = 9_999


def _titled(title: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": _DRAFT, "title": title, **schema}


def _values_schema() -> dict[str, Any]:
    """A number for each candidate; the minimum number of candidates is required."""
    number = {"type": "integer", "minimum": 0, "maximum": _MAX_VALUE}
    values = object_schema(dict.fromkeys(LETTERS, number))
    return values | {"required": list(LETTERS[:MIN_CANDIDATES])}


def _rankings() -> list[list[str]]:
    """Every ranking of three to six candidates. A list, because a grammar can't express that no letter repeats."""
    counts = range(MIN_CANDIDATES, len(LETTERS) + 1)
    return [list(order) for count in counts for order in permutations(LETTERS[:count])]


_RANKING = object_schema({"values": _values_schema(), "ranking": {"enum": _rankings()}})
_VERDICT = object_schema(
    {
        "checks": object_schema({check: {"type": "boolean"} for check in CHECKS}),
        "failing_criterion": {"enum": ["none", *CHECKS]},
        "verdict": {"enum": ["pass", "fail"]},
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
    }
)

# The titles are part of the release's files.
SCHEMAS = {
    **{name: _titled(f"The {name} that a text states", spec.schema) for name, spec in REGISTERED_SPECS.items()},
    "ranking": _titled("What each candidate states, and the candidates from first to last", _RANKING),
    "verdict": _titled("Whether the evidence supports a claim, criterion by criterion", _VERDICT),
}
