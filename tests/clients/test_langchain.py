"""LangChain's ChatOpenAI on a live service."""

import json

import pytest

from tests.clients.conftest import ANSWERS

ORDER, VERDICT = ANSWERS["generate_json"], ANSWERS["judge"]


@pytest.fixture(scope="module")
def results(run_client):
    return run_client("langchain_client", "venv-clients")


@pytest.mark.parametrize("exercise", ["structured", "structured_stream", "json_mode"])
def test_structured_output_has_the_right_values_by_every_method(results, exercise):
    assert results[exercise] == ORDER


def test_nested_models_are_filled(results):
    assert results["structured_nested"] == VERDICT


def test_a_strict_schema_is_accepted_and_the_raw_answer_has_usage_and_reason(results):
    answer = results["structured_strict"]
    assert (answer["parsed"], answer["finish_reason"]) == (ORDER, "stop")
    assert answer["usage"]["input_tokens"] + answer["usage"]["output_tokens"] == answer["usage"]["total_tokens"] > 0
    assert answer["fingerprint"].startswith("fp_")


def test_a_task_can_be_asked_for_by_the_models_name(results):
    assert json.loads(results["task_model"]) == VERDICT


def test_a_stream_has_the_whole_answers_text_and_usage(results):
    texts, usage = results["stream"]["texts"], results["stream"]["usage"]
    assert texts[0] == texts[1]
    assert usage[0] == usage[1]
    assert usage[0]["output_tokens"] == 24
    assert results["stream"]["num_chunks"] > 20


def test_a_batch_of_asynchronous_requests_is_answered(results):
    assert results["batch"] == [ORDER] * 4


def test_tools_are_refused_and_a_missing_header_is_explained(results):
    assert results["tools"]["code"] == "unsupported_parameter"
    assert "response_format" in results["tools"]["text"]
    assert results["no_headers"]["code"] == "missing_header"
    assert "default_headers" in results["no_headers"]["text"]
