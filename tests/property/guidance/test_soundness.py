"""Grammars accept what their schemas allow; every guide is planned or rejected with a declared code."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.counting import Counting
from llm_policy.guidance.json_reader import read_json, write_json
from llm_policy.guidance.json_schema.schema_validator import build_schema_validator
from llm_policy.guidance.plan.ebnf_guide import plan_ebnf
from llm_policy.guidance.plan.json_schema_guide import plan_json_schema
from llm_policy.guidance.plan.text_guides import plan_choice, plan_regex
from llm_policy.release.guide_limits import GuideLimits
from llmstack.guides.instance_order import follows_declaration
from tests.grammar_check import accepts, compile_plan
from tests.hypothesis_profiles import num_examples
from tests.property.guidance.strategies import damaged_grammars, grammars, regexes, schemas, values
from tests.survivors import keep_if, keeps_at_least

LIMITS = GuideLimits()
countings = st.sampled_from(Counting)

law_settings = settings(
    max_examples=num_examples(100, in_explore_profile=1_200),
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)
each_counting_settings = settings(law_settings, max_examples=num_examples(50))

Plan = TypeVar("Plan")


def unless_rejected(plan: Callable[[], Plan]) -> Plan | None:
    """The planned guide; None if it is rejected with a declared code."""
    try:
        return plan()
    except InvalidRequest:
        return None


@keeps_at_least(0.25)
@law_settings
@given(schemas, st.lists(values, min_size=1, max_size=12), countings)
@example({"anyOf": [{"required": ["a"]}, {"type": "string"}]}, ["x", {"a": 1}], Counting.BOUNDED)
@example({"pattern": "^[a-z]+$", "maxLength": 900}, ["x" * 20], Counting.NONE)
def test_every_valid_instance_in_declared_order_is_accepted(
    schema: Any, instances: list[Any], counting: Counting
) -> None:
    validator = build_schema_validator(schema)
    valid = [i for i in instances if validator.is_valid(i) and follows_declaration(schema, i)]
    assume(valid)
    try:
        plan = plan_json_schema(write_json(schema), LIMITS, counting)
    except InvalidRequest as error:
        raise AssertionError(f"{error} although {valid[0]!r} is valid") from error
    assume(not plan.narrowed)
    compiled = compile_plan(plan, copy_classes=False)
    for instance in valid:
        assert accepts(compiled, write_json(instance)), (schema, instance)


@keeps_at_least(0.25)
@law_settings
@given(schemas, st.lists(values, min_size=1, max_size=12), countings)
def test_without_unenforced_keywords_every_invalid_instance_is_rejected(
    schema: Any, instances: list[Any], counting: Counting
) -> None:
    validator = build_schema_validator(schema)
    invalid = [i for i in instances if not validator.is_valid(i)]
    assume(invalid)
    plan = unless_rejected(lambda: plan_json_schema(write_json(schema), LIMITS, counting))
    assume(plan is not None and not plan.unenforced)
    compiled = compile_plan(plan, copy_classes=False)
    for instance in invalid:
        assert not accepts(compiled, write_json(instance)), (schema, instance)


@settings(max_examples=num_examples(250))
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60), st.text('{}[]":,\\u0aef-1tn ', max_size=60)))
def test_any_text_is_read_or_rejected_with_a_declared_code(text: str | bytes) -> None:
    for plan in (read_json, plan_json_schema, plan_choice):
        with suppress(InvalidRequest):
            plan(text, LIMITS)


@keeps_at_least(0.25)
@settings(max_examples=num_examples(250))
@given(st.one_of(st.binary(max_size=40), st.text(max_size=40), st.text("ab(|)[]^$*+?{},0123\\dwsu-.", max_size=40)))
def test_any_regex_is_planned_or_rejected_with_a_declared_code(text: str | bytes) -> None:
    plan = unless_rejected(lambda: plan_regex(text, LIMITS))
    keep_if(plan)
    compile_plan(plan, copy_classes=False)


@keeps_at_least(0.25)
@settings(max_examples=num_examples(125, in_explore_profile=1_500))
@given(grammars | damaged_grammars | st.text('ab "[]^-|()*+?{},02#\\xu:=\n', max_size=40).map("root ::= ".__add__))
def test_any_grammar_is_planned_or_rejected_with_a_declared_code(text: str) -> None:
    plan = unless_rejected(lambda: plan_ebnf(text, LIMITS))
    keep_if(plan)
    compile_plan(plan, copy_classes=False)


@each_counting_settings
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), countings)
def test_a_length_is_enforced_or_reported(low: int, extra: int, length: int, counting: Counting) -> None:
    high = low + extra
    plan = plan_json_schema(write_json({"type": "string", "minLength": low, "maxLength": high}), LIMITS, counting)
    reported = {finding.keyword for finding in plan.unenforced}
    is_accepted = accepts(compile_plan(plan, copy_classes=False), write_json("é" * length))
    if low <= length <= high:
        assert is_accepted
    elif is_accepted:
        assert ("minLength" if length < low else "maxLength") in reported


@each_counting_settings
@given(regexes, st.lists(st.text("ab-", max_size=8), min_size=1, max_size=8))
def test_a_regex_accepts_the_same_texts_with_every_counting(regex: str, texts: list[str]) -> None:
    compiled = [compile_plan(plan_regex(regex, LIMITS, counting), copy_classes=False) for counting in Counting]
    for text in texts:
        expected = re.fullmatch(regex, text) is not None
        assert [accepts(grammar, text) for grammar in compiled] == [expected] * len(compiled), (regex, text)


@keeps_at_least(0.25)
@each_counting_settings
@given(grammars, st.lists(st.text("abc", max_size=6), min_size=1, max_size=8))
def test_a_grammar_accepts_the_same_texts_with_every_counting(grammar: str, texts: list[str]) -> None:
    plans = [unless_rejected(partial(plan_ebnf, grammar, LIMITS, counting)) for counting in Counting]
    assert len({plan is None for plan in plans}) == 1
    keep_if(plans[0])
    compiled = [compile_plan(plan, copy_classes=False) for plan in plans if plan is not None]
    for text in texts:
        assert len({accepts(one, text) for one in compiled}) == 1, (grammar, text)
