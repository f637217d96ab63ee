"""Grammars accept what their schemas allow; every guide is planned or rejected with a declared code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.json_reader import read_json, write_json
from llm_policy.guidance.json_schema.schema_validator import build_schema_validator
from llm_policy.guidance.plan.ebnf_guide import plan_ebnf
from llm_policy.guidance.plan.json_schema_guide import plan_json_schema
from llm_policy.guidance.plan.text_guides import plan_choice, plan_regex
from llm_policy.release.guide_limits import GuideLimits
from llmstack.guides.instance_order import follows_declaration
from tests.grammar_check import accepts, compile_plan
from tests.hypothesis_profiles import num_examples
from tests.property.guidance.strategies import damaged_grammars, grammars, schemas, values
from tests.survivors import keep_if, keeps_at_least

LIMITS = GuideLimits()

law_settings = settings(
    max_examples=num_examples(400),
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)

Plan = TypeVar("Plan")


def unless_rejected(plan: Callable[[], Plan]) -> Plan | None:
    """The planned guide; None if it is rejected with a declared code."""
    try:
        return plan()
    except InvalidRequest:
        return None


@keeps_at_least(0.25)
@law_settings
@given(schemas, st.lists(values, min_size=1, max_size=12))
@example({"anyOf": [{"required": ["a"]}, {"type": "string"}]}, ["x", {"a": 1}])
def test_every_valid_instance_in_declared_order_is_accepted(schema: Any, instances: list[Any]) -> None:
    validator = build_schema_validator(schema)
    valid = [i for i in instances if validator.is_valid(i) and follows_declaration(schema, i)]
    assume(valid)
    try:
        plan = plan_json_schema(write_json(schema), LIMITS)
    except InvalidRequest as error:
        raise AssertionError(f"{error} although {valid[0]!r} is valid") from error
    assume(not plan.narrowed)
    compiled = compile_plan(plan, copy_classes=False)
    for instance in valid:
        assert accepts(compiled, write_json(instance)), (schema, instance)


@keeps_at_least(0.25)
@law_settings
@given(schemas, st.lists(values, min_size=1, max_size=12))
def test_without_unenforced_keywords_every_invalid_instance_is_rejected(schema: Any, instances: list[Any]) -> None:
    validator = build_schema_validator(schema)
    invalid = [i for i in instances if not validator.is_valid(i)]
    assume(invalid)
    plan = unless_rejected(lambda: plan_json_schema(write_json(schema), LIMITS))
    assume(plan is not None and not plan.unenforced)
    compiled = compile_plan(plan, copy_classes=False)
    for instance in invalid:
        assert not accepts(compiled, write_json(instance)), (schema, instance)


@settings(max_examples=num_examples(500))
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60), st.text('{}[]":,\\u0aef-1tn ', max_size=60)))
def test_any_text_is_read_or_rejected_with_a_declared_code(text: str | bytes) -> None:
    for plan in (read_json, plan_json_schema, plan_choice):
        with suppress(InvalidRequest):
            plan(text, LIMITS)


@keeps_at_least(0.25)
@settings(max_examples=num_examples(500))
@given(st.one_of(st.binary(max_size=40), st.text(max_size=40), st.text("ab(|)[]^$*+?{},0123\\dwsu-.", max_size=40)))
def test_any_regex_is_planned_or_rejected_with_a_declared_code(text: str | bytes) -> None:
    plan = unless_rejected(lambda: plan_regex(text, LIMITS))
    keep_if(plan)
    compile_plan(plan, copy_classes=False)


@keeps_at_least(0.25)
@settings(max_examples=num_examples(500))
@given(grammars | damaged_grammars | st.text('ab "[]^-|()*+?{},02#\\xu:=\n', max_size=40).map("root ::= ".__add__))
def test_any_grammar_is_planned_or_rejected_with_a_declared_code(text: str) -> None:
    plan = unless_rejected(lambda: plan_ebnf(text, LIMITS))
    keep_if(plan)
    compile_plan(plan, copy_classes=False)
