"""Each case of the demo accepts the expected reply and no other."""

import json
from typing import Any

import pytest

from embedded_model.release.builder import TRAINED_MODEL as BUILT_MODEL
from llm_policy.release.release import Release
from llm_policy.text.tokenizer import Tokenizer
from llmstack.client.ensemble_client import Reply
from llmstack.demo.cases import LONG_PROMPT_TOKENS, ORDER_SCHEMA, TRAINED_MODEL, Case, demo_cases
from llmstack.paths import DEFAULT_RELEASE_DIR

GOOD: dict[str, list[Any]] = {
    "text_output": ['{"verdict": "pass"}'],
    "schema_valid": [True],
    "finish_reason": ["stop"],
    "cost_usd": [2e-5],
    "num_input_tokens": [80],
    "num_output_tokens": [39],
    "queue_delay_us": [0],
}
ANSWERED = Case("judge", {}, {})
REJECTED = Case("unknown task", {}, {}, "unknown_task")


@pytest.fixture(scope="module")
def cases():
    return {case.name: case for case in demo_cases(Release.open(DEFAULT_RELEASE_DIR))}


def test_the_demo_has_every_task_and_every_kind_of_rejection(cases):
    answered = [name for name, case in cases.items() if not case.error_code]
    assert answered == ["generate_json", "rank_candidates", "judge"]
    assert {case.error_code for case in cases.values() if case.error_code} == {
        "missing_header",
        "engine_hash_mismatch",
        "quantisation_mismatch",
        "token_budget_overrun",
        "unknown_task",
        "schema_invalid",
    }


def test_the_order_schema_is_the_registered_one():
    assert ORDER_SCHEMA.items() <= json.loads(Release.open(DEFAULT_RELEASE_DIR).schema_text("order")).items()


def test_the_trained_model_has_the_name_that_the_build_gives_it():
    assert TRAINED_MODEL == BUILT_MODEL == Release.open(DEFAULT_RELEASE_DIR).manifest.engine.model


def test_the_tasks_are_sent_as_messages(cases):
    for name in ("generate_json", "rank_candidates", "judge"):
        assert [m["role"] for m in json.loads(cases[name].inputs["messages"])] == ["system", "user"]


def test_the_long_prompt_has_enough_tokens(cases):
    tokenizer = Tokenizer.load(Release.open(DEFAULT_RELEASE_DIR).tokenizer_dir)
    assert len(tokenizer.encode_text(cases["5,000-token prompt"].inputs["text_input"])) >= LONG_PROMPT_TOKENS


def test_a_good_answer_has_no_fault():
    assert ANSWERED.find_fault(Reply(GOOD, "200")) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"text_output": ["{"]},
        {"text_output": []},
        {"schema_valid": [False]},
        {"finish_reason": ["length"]},
        {"cost_usd": [0.0]},
        {"num_input_tokens": [0]},
        {"num_output_tokens": []},
        {"queue_delay_us": [-1]},
        {"queue_delay_us": []},
    ],
    ids=str,
)
def test_an_answer_with_one_wrong_output_is_a_fault(change):
    assert ANSWERED.find_fault(Reply(GOOD | change, "200"))


def test_an_error_instead_of_an_answer_is_a_fault():
    assert "overloaded" in ANSWERED.find_fault(Reply({}, "503", "in ensemble 'ensemble', overloaded: later"))


@pytest.mark.parametrize("status", ["400", "INVALID_ARGUMENT"])
@pytest.mark.parametrize("prefix", ["", "in ensemble 'ensemble', "])
def test_the_expected_error_has_no_fault(status, prefix):
    assert REJECTED.find_fault(Reply({}, status, f"{prefix}unknown_task: not one of …")) == ""


@pytest.mark.parametrize(
    "reply",
    [
        Reply(GOOD, "200"),
        Reply({}, "500", "unknown_task: wrong status"),
        Reply({}, "400", "unknown_schema: wrong code"),
        Reply({}, "400", "Unexpected inference input"),
    ],
)
def test_any_other_reply_is_a_fault(reply):
    assert REJECTED.find_fault(reply)


def test_the_trained_model_must_answer_correctly(cases):
    case = cases["judge"]
    assert case.find_fault(Reply(GOOD | {"text_output": [json.dumps(case.answer)]}, "200")) == ""
    assert f"expected {json.dumps(case.answer)}" in case.find_fault(Reply(GOOD, "200"))
