"""Which request parameters are known, and what an error says about the others."""

import json

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from llm_policy.api_key import create_key
from llm_policy.rules.headers import CANARY_TOKEN, CLIENT_HEADERS
from llm_policy.rules.parameters import MAX_DETAILS, TRITON_PARAMETERS, ParameterNames
from llm_policy.rules.row_input import INPUT_NAMES
from llmstack.paths import MODEL_REPOSITORY
from llmstack.server.command import FORWARDED_HEADERS

NAMES = ParameterNames(CLIENT_HEADERS, (CANARY_TOKEN,))


def detail(name):
    (text,) = NAMES.unknown([name])
    return text


@pytest.mark.parametrize("model", ["ensemble", "ensemble_stream"])
def test_the_known_inputs_are_those_of_the_models(model):
    path = MODEL_REPOSITORY / model / "config.pbtxt"
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    assert sorted(each.name for each in config.input) == list(INPUT_NAMES)


@pytest.mark.parametrize("name", [*FORWARDED_HEADERS, *sorted(TRITON_PARAMETERS), "triton_enable_empty_final_response"])
def test_headers_and_parameters_of_triton_are_known(name):
    assert NAMES.unknown([name]) == []


def test_headers_are_known_in_any_case_and_parameters_of_triton_in_their_own():
    assert NAMES.unknown(["x-engine-hash", "X-TENANT"]) == []
    assert detail("Timeout") == "unknown parameter 'Timeout', did you mean timeout?"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("max_token", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("temprature", "temperature"),
        ("Temperature", "temperature"),
        ("top-p", "top_p"),
        ("message", "messages"),
        ("prompt", "text_input"),
        ("stop", "stop_words"),
        ("schema", "schema_id"),
        ("engine_hash", "X-Engine-Hash"),
        ("X-Quantization", "X-Quantisation"),
        ("api_key", "X-Api-Key"),
        ("timeot", "timeout"),
    ],
)
def test_the_nearest_known_name_is_named(name, nearest):
    assert detail(name) == f"unknown parameter '{name}', did you mean {nearest}?"


@pytest.mark.parametrize("name", ["foo", "", "x" * 64])
def test_a_name_that_resembles_no_known_one_has_no_suggestion(name):
    assert detail(name) == f"unknown parameter '{name}'"


def test_the_name_of_an_input_says_that_it_is_one():
    assert (
        detail("max_tokens") == "max_tokens is an input, but was given as a request parameter, where it has no effect"
    )


def test_the_token_of_the_canary_is_suggested_to_nobody():
    assert CANARY_TOKEN not in detail("X-Canary-Tokn")


def test_a_quoted_name_is_printable_ascii_of_64_characters_at_most():
    assert detail("é\n") == r"unknown parameter '\xe9\n'"
    assert detail("a" * 65) == f"unknown parameter '{'a' * 64}'"


def test_an_api_key_is_not_quoted():
    key = create_key()
    assert detail(key) == "unknown parameter 'lsk_[hidden]'"
    assert key not in detail("x" * 40 + key)


def test_a_name_given_twice_is_reported_once():
    assert len(NAMES.unknown(["foo", "foo"])) == 1


def test_many_unknown_parameters_are_counted():
    details = NAMES.unknown([f"p{number}" for number in range(100_000)])
    assert len(details) == MAX_DETAILS
    assert details[-1] == "unknown parameter 'p3' (and 99996 more)"
    assert len(json.dumps(details)) < 1_000
