"""The Lark text of a schema's plan matches exactly the texts that XGrammar accepts for the same plan."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llm_policy.errors import InvalidRequest
from llm_policy.guidance.counting import Counting
from llm_policy.guidance.grammar.lark_writer import write_lark
from llm_policy.guidance.json_reader import write_json
from llm_policy.guidance.plan.json_schema_guide import plan_json_schema
from llm_policy.release.guide_limits import GuideLimits
from tests import grammar_check, lark_check
from tests.hypothesis_profiles import num_examples
from tests.property.guidance.grammar_texts import changed_text, sample_text
from tests.property.guidance.strategies import schemas, values

_LIMITS = GuideLimits()


@settings(max_examples=num_examples(75))
@given(schemas, st.lists(values, max_size=3), st.integers(0, 2**16))
def test_both_backends_accept_the_same_texts(schema: Any, instances: list[Any], seed: int) -> None:
    with suppress(InvalidRequest):
        plan = plan_json_schema(write_json(schema), _LIMITS, Counting.EXACT)
        lark = lark_check.compile_lark(write_lark(plan.grammar, _LIMITS))
        matching = [sample_text(plan.grammar, seed + i) for i in range(3)]
        xgrammar = grammar_check.compile_plan(plan)
        texts = [*matching, *(changed_text(text, seed) for text in matching), *map(write_json, instances)]
        for text in texts:
            assert lark_check.accepts(lark, text) == grammar_check.accepts(xgrammar, text), text
