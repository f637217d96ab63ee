"""pydantic-ai's agents on a live service."""

import pytest

from tests.clients.conftest import ANSWERS

ORDER, VERDICT = ANSWERS["generate_json"], ANSWERS["judge"]


@pytest.fixture(scope="module")
def results(run_client):
    return run_client("pydantic_ai_client", "venv-clients")


def test_native_output_has_the_right_values_in_one_request(results):
    assert results["structured"]["output"] == ORDER
    assert results["structured"]["requests"] == 1
    assert all(number > 0 for number in results["structured"]["tokens"])


@pytest.mark.parametrize("exercise", ["structured_strict", "prompted"])
def test_strict_and_prompted_output_have_the_right_values(results, exercise):
    assert results[exercise] == ORDER


def test_nested_models_are_filled(results):
    assert results["structured_nested"] == VERDICT


def test_a_stream_of_partial_objects_ends_with_the_whole_one(results):
    assert results["stream"]["last"] == ORDER
    assert results["stream"]["outputs"] > 1


def test_a_text_is_streamed_in_pieces(results):
    assert len(results["text"]) > 20
    assert "".join(results["text"]).startswith('{"order_id":"ORD-4711"')


def test_tools_are_refused_and_a_missing_header_is_explained(results):
    assert results["tools"]["code"] == "unsupported_parameter"
    assert "response_format" in results["tools"]["text"]
    assert results["no_headers"]["code"] == "missing_header"
    assert "default_headers" in results["no_headers"]["text"]
