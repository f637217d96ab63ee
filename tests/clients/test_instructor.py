"""instructor on a live service."""

import pytest

from tests.clients.conftest import ANSWERS

ORDER, VERDICT = ANSWERS["generate_json"], ANSWERS["judge"]


@pytest.fixture(scope="module")
def results(run_client):
    return run_client("instructor_client", "venv-clients")


def test_a_response_model_has_the_right_values_and_the_policys_report(results):
    answer = results["structured"]
    assert (answer["output"], answer["finish_reason"]) == (ORDER, "stop")
    assert answer["report"]["schema_valid"] is True
    assert answer["report"]["cost_usd"] > 0


def test_nested_models_are_filled(results):
    assert results["structured_nested"] == VERDICT


def test_json_mode_gives_an_object_of_the_form(results):
    assert results["json_mode"] == {name: ORDER[name] for name in ("product", "quantity")}


def test_partial_objects_grow_to_the_whole_one(results):
    assert results["partial"]["last"] == ORDER
    assert results["partial"]["steps"] > 5


def test_asynchronous_requests_run_side_by_side(results):
    assert results["asynchronous"] == [ORDER] * 4


def test_further_members_of_the_body_are_taken(results):
    assert results["extra_body"] == ORDER


def test_tools_are_refused_and_a_missing_header_is_explained(results):
    assert results["tools"]["code"] == "unsupported_parameter"
    assert "response_format" in results["tools"]["text"]
    assert results["no_headers"]["code"] == "missing_header"
    assert "default_headers" in results["no_headers"]["text"]
