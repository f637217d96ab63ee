"""Every code of the policy has an HTTP status, and SDKs retry what may succeed."""

from __future__ import annotations

import pytest

from llm_policy.errors import Cancelled, Code, InternalFault, InvalidRequest, Unavailable, create_error
from llmstack.openai.error import TREATMENTS, ApiError, policy_error


def answer_of(code: Code) -> ApiError:
    return policy_error(str(create_error(code, "prompt has 9 tokens")), {"prompt": "messages"})


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_status_and_keeps_its_name(code):
    error = answer_of(code)
    assert error.code == code.value
    assert error.document()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("code", Code)
def test_an_sdk_retries_exactly_what_the_policy_calls_retryable(code):
    is_retryable = type(create_error(code, "")).is_retryable
    assert answer_of(code).headers()["x-should-retry"] == str(is_retryable).lower()
    assert ("retry-after" in answer_of(code).headers()) == is_retryable


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("missing_api_key", 401, "authentication_error"),
        ("invalid_api_key", 401, "authentication_error"),
        ("tenant_forbidden", 403, "permission_error"),
        ("token_budget_overrun", 413, "invalid_request_error"),
        ("tenant_budget_overrun", 429, "rate_limit_error"),
        ("overloaded", 429, "rate_limit_error"),
        ("engine_unavailable", 503, "server_error"),
        ("draining", 503, "server_error"),
        ("schema_invalid", 400, "invalid_request_error"),
        ("internal", 500, "server_error"),
    ],
)
def test_the_code_decides_status_and_type(code, status, kind):
    error = policy_error(f"{code}: because", {})
    assert (error.status, error.document()["error"]["type"]) == (status, kind)


def test_a_spent_budget_is_not_retried():
    assert policy_error("tenant_budget_overrun: spent", {}).headers() == {"x-should-retry": "false"}


def test_a_rate_limit_says_when_to_try_again():
    text = "rate_limited: tenant a used 9 tokens within a minute, limit 9 (in 3 s more); try again in 17 s"
    assert policy_error(text, {}).headers() == {"x-should-retry": "true", "retry-after": "17"}
    assert policy_error("rate_limited: limit 9", {}).headers()["retry-after"] == "1"


def test_the_ensembles_prefix_is_left_out_and_the_parameter_named():
    error = policy_error("in ensemble 'ensemble', invalid_input: top_k is 9999, allowed 0 to 1024", {"top_k": "top_k"})
    assert (error.message, error.param) == ("top_k is 9999, allowed 0 to 1024", "top_k")


def test_a_guides_error_names_the_member_that_gave_the_guide():
    error = policy_error("schema_invalid: the regex has a fault", {"guided_decoding_guide": "guided_regex"})
    assert error.param == "guided_regex"


NO_HASH = "missing_header: X-Engine-Hash is required, none was given"


def test_a_missing_header_comes_with_a_hint_for_sdks():
    assert policy_error(NO_HASH, {}).message == (
        "X-Engine-Hash is required, none was given; an SDK sends what it is given as "
        'default_headers={"X-Engine-Hash": "sha256:…"}, and `llmstack manifest summary` prints the values'
    )


def test_two_missing_headers_are_one_sentence():
    error = policy_error(f"{NO_HASH}; missing_header: X-Quantisation is required, none was given", {})
    assert error.message.startswith("X-Engine-Hash and X-Quantisation are required, none was given; an SDK ")
    assert '{"X-Engine-Hash": "sha256:…", "X-Quantisation": "w4a8"}' in error.message
    assert "missing_header" not in error.message


def test_faults_beside_a_missing_header_are_all_told():
    error = policy_error(f"{NO_HASH}; invalid_header: X-Tenant has 200 characters, allowed 1 to 128", {})
    assert "X-Tenant has 200 characters" in error.message


@pytest.mark.parametrize("text", ["Stub process 'pre_0_0' is not healthy.", "poem: roses", ""])
def test_a_text_without_a_known_code_is_a_server_that_may_work_again(text):
    error = policy_error(text, {})
    assert (error.status, error.code, error.retry_after_s) == (503, "server_unavailable", 5)


def test_the_policys_classes_are_all_treated():
    declared = {code.value for kind in (InvalidRequest, Unavailable, Cancelled, InternalFault) for code in kind.codes}
    assert declared <= TREATMENTS.keys()
