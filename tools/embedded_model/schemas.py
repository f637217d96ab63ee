"""The embedded release's registered schemas: those that its model was trained to fill, and those of the other tasks.

Every text has a bounded length, so that any answer is finite, also that of a model with random weights.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

from embedded_model.filling import REGISTERED_SHAPES, object_schema
from embedded_model.judging import CHECKS
from embedded_model.ranking import FEWEST_CANDIDATES, LETTERS

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_MAX_VALUE = 9_999


def _titled(title: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": _DRAFT, "title": title, **schema}


def _values() -> dict[str, Any]:
    """A number for each candidate; the first three are always there."""
    number = {"type": "integer", "minimum": 0, "maximum": _MAX_VALUE}
    values = object_schema(dict.fromkeys(LETTERS, number))
    return values | {"required": list(LETTERS[:FEWEST_CANDIDATES])}


def _orders() -> list[list[str]]:
    """Every order of three to six candidates. Listed, so that a grammar can see to it that none repeats."""
    counts = range(FEWEST_CANDIDATES, len(LETTERS) + 1)
    return [list(order) for count in counts for order in permutations(LETTERS[:count])]


_RANKING = object_schema({"values": _values(), "ranking": {"enum": _orders()}})
_VERDICT = object_schema(
    {
        "checks": object_schema({check: {"type": "boolean"} for check in CHECKS}),
        "failing_criterion": {"enum": ["none", *CHECKS]},
        "verdict": {"enum": ["pass", "fail"]},
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
    }
)

SCHEMAS = {
    **{name: _titled(f"The {name} that a text states", shape.schema) for name, shape in REGISTERED_SHAPES.items()},
    "ranking": _titled("What each candidate states, and the candidates from first to last", _RANKING),
    "verdict": _titled("Whether the evidence supports a claim, criterion by criterion", _VERDICT),
}
