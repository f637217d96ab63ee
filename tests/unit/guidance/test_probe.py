"""The probe finds what would starve or hang the engine, and passes what is fine."""

from __future__ import annotations

import json

import pytest

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.compile.probe import choose, probe
from llm_policy.guidance.plan.planner import plan_json, plan_json_schema
from llm_policy.release.guide_limits import GuideLimits
from tests.grammar_check import compile_guide, tokenizer_info

LIMITS = GuideLimits()


def test_a_sound_guide_is_walked_to_its_end() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}
    probe(compile_guide(plan_json_schema(json.dumps(schema), LIMITS).guide), tokenizer_info(), LIMITS)
    probe(compile_guide(plan_json(LIMITS).guide), tokenizer_info(), LIMITS)


def test_a_long_text_is_no_fault() -> None:
    guide = plan_json_schema('{"type":"string","minLength":400}', LIMITS).guide
    probe(compile_guide(guide), tokenizer_info(), GuideLimits(max_probe_steps=50))


def test_a_dead_end_is_found() -> None:
    with pytest.raises(InvalidRequest, match=r"^schema_invalid: .* no token is allowed"):
        probe(compile_guide("root ::= root"), tokenizer_info(), LIMITS)


def test_a_walk_that_takes_too_long_is_cut_off() -> None:
    guide = plan_json_schema('{"type":"string","minLength":400}', LIMITS).guide
    with pytest.raises(InvalidRequest, match=r"^schema_too_complex: time of the guide's probe"):
        probe(compile_guide(guide), tokenizer_info(), GuideLimits(max_probe_ms=0))


def test_a_text_is_left_by_its_quote_and_not_filled_with_brackets() -> None:
    bracket, quote, letter = 3, 5, 40
    in_text, between_members = [1 << bracket | 1 << quote, 1 << (letter - 32)], [1 << bracket | 1 << quote, 0]
    assert choose(in_text, [bracket, quote], (quote, letter)) == quote
    assert choose(between_members, [bracket, quote], (quote, letter)) == bracket
