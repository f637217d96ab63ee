"""LlamaIndex's OpenAILike on a live service. It needs an older OpenAI SDK than the others, so its own environment."""

import json

import pytest

from tests.clients.conftest import ANSWERS

ORDER, VERDICT = ANSWERS["generate_json"], ANSWERS["judge"]


@pytest.fixture(scope="module")
def results(run_client):
    return run_client("llama_index_client", "venv-llama-index")


@pytest.mark.parametrize("exercise", ["structured", "structured_asynchronous"])
def test_a_structured_llm_has_the_right_values(results, exercise):
    assert results[exercise] == ORDER


def test_nested_models_are_filled(results):
    assert results["structured_nested"] == VERDICT


def test_a_response_format_goes_through(results):
    assert json.loads(results["response_format"]) == ORDER


def test_a_task_can_be_asked_for_by_the_models_name(results):
    assert json.loads(results["chat"]["text"]) == VERDICT
    assert results["chat"]["counts"]["completion_tokens"] > 0


@pytest.mark.parametrize("exercise", ["stream", "completion"])
def test_a_stream_has_the_whole_answers_text(results, exercise):
    assert results[exercise]["streamed"] == results[exercise]["whole"] != ""


def test_tools_are_refused_and_a_missing_header_is_explained(results):
    assert results["tools"]["code"] == "unsupported_parameter"
    assert "response_format" in results["tools"]["text"]
    assert results["no_headers"]["code"] == "missing_header"
    assert "default_headers" in results["no_headers"]["text"]
