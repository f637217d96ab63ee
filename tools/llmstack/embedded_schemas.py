"""The embedded release's registered schemas.

A model with random weights completes whatever the grammar allows, so every value is an enum, a bounded integer, a
boolean or a pattern of fixed length: any answer is short, finite and valid.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def _object(title: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "$schema": _DRAFT,
        "title": title,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS = {
    "order": _object(
        "An order, as generate_json answers",
        order_id={"type": "string", "pattern": "^ORD-[0-9]{4}$"},
        status={"enum": ["pending", "packed", "shipped", "delivered", "cancelled"]},
        priority={"enum": ["low", "normal", "high"]},
        quantity={"type": "integer", "minimum": 1, "maximum": 99},
        gift={"type": "boolean"},
    ),
    "ranking": _object(
        "Four candidates from best to worst, as rank_candidates answers; every order is listed, so none repeats",
        ranking={"enum": [list(order) for order in permutations("ABCD")]},
        confidence={"enum": ["low", "medium", "high"]},
    ),
    "verdict": _object(
        "A verdict on an answer, as judge gives it",
        verdict={"enum": ["pass", "fail"]},
        score={"type": "integer", "minimum": 0, "maximum": 10},
        failing_criterion={"enum": ["none", "accuracy", "completeness", "format", "tone", "safety"]},
    ),
}
