"""The probe finds guides that would hang the engine, and accepts the others."""

from __future__ import annotations

import json

import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.compile.probe import Probe, choose
from llm_policy.guidance.plan.json_schema_guide import plan_json, plan_json_schema
from llm_policy.release.guide_limits import GuideLimits
from tests.grammar_check import compile_guide, tokenizer_info

LIMITS = GuideLimits()


def walk(grammar: str, limits: GuideLimits = LIMITS) -> None:
    Probe(tokenizer_info(), limits).walk(compile_guide(grammar))


def test_a_valid_guide_is_walked_to_its_end() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}
    walk(plan_json_schema(json.dumps(schema), LIMITS).guide)
    walk(plan_json(LIMITS).guide)


def test_a_long_output_is_accepted() -> None:
    walk(plan_json_schema('{"type":"string","minLength":400}', LIMITS).guide, GuideLimits(max_probe_steps=50))


def test_a_dead_end_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_invalid: .* no token is allowed"):
        walk("root ::= root")


def test_a_walk_over_the_time_limit_is_rejected() -> None:
    guide = plan_json_schema('{"type":"string","minLength":400}', LIMITS).guide
    with pytest.raises(InvalidRequest, match=r"^schema_too_complex: time of the guide's probe"):
        walk(guide, GuideLimits(max_probe_ms=0))


def test_inside_a_string_the_probe_prefers_the_closing_quote_to_brackets() -> None:
    bracket, quote, letter = 3, 5, 40
    in_string, between_members = [1 << bracket | 1 << quote, 1 << (letter - 32)], [1 << bracket | 1 << quote, 0]
    assert choose(in_string, [bracket, quote], (quote, letter)) == quote
    assert choose(between_members, [bracket, quote], (quote, letter)) == bracket
