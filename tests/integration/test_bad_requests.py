"""Invalid requests to the live server: each is rejected with a declared code, and the server still answers."""

import json

import numpy as np
import pytest

from tests.integration.client import Client

# Changes to the valid headers, sent as request parameters; None drops one.
BAD_HEADERS = {
    "no headers at all": ({"X-Engine-Hash": None, "X-Quantisation": None}, "missing_header"),
    "no engine hash": ({"X-Engine-Hash": None}, "missing_header"),
    "no quantisation": ({"X-Quantisation": None}, "missing_header"),
    "another engine": ({"X-Engine-Hash": "sha256:" + "0" * 64}, "engine_hash_mismatch"),
    "the hash without its algorithm": ({"X-Engine-Hash": "0" * 64}, "engine_hash_mismatch"),
    "another quantisation": ({"X-Quantisation": "fp16"}, "quantisation_mismatch"),
    "quantisation in capitals": ({"X-Quantisation": "W4A8"}, "quantisation_mismatch"),
    "a tenant that is too long": ({"X-Tenant": "t" * 129}, "invalid_header"),
    "an empty tenant": ({"X-Tenant": ""}, "invalid_header"),
    "a request id that is not ASCII": ({"X-Request-Id": "café"}, "invalid_header"),
    "a tenant with a bell": ({"X-Tenant": "a\x07b"}, "invalid_header"),
    "a tenant with a delete character": ({"X-Tenant": "a\x7f"}, "invalid_header"),
    "a tenant of a null character": ({"X-Tenant": "\0"}, "invalid_header"),
    "a request id with a line break": ({"X-Request-Id": "a\nb"}, "invalid_header"),
    "an engine hash that is a number": ({"X-Engine-Hash": 7}, "invalid_header"),
    "an engine hash that is a switch": ({"X-Engine-Hash": True}, "invalid_header"),
}

SECRET = "tulip-marmalade-9"
CHAT = [{"role": "user", "content": SECRET}]

# Changes to the inputs {"text_input": SECRET}; None drops one.
BAD_INPUTS = {
    "no prompt": ({"text_input": None}, "invalid_input"),
    "both prompts": ({"messages": json.dumps(CHAT)}, "invalid_input"),
    "an empty prompt": ({"text_input": ""}, "invalid_input"),
    "a prompt of 10 MB": ({"text_input": "a " * 5_000_000}, "token_budget_overrun"),
    "a prompt of 20,000 words": ({"text_input": "order " * 20_000}, "token_budget_overrun"),
    "messages that are not JSON": ({"text_input": None, "messages": SECRET}, "invalid_input"),
    "truncated messages": ({"text_input": None, "messages": '[{"role":"user"'}, "invalid_input"),
    "messages of NaN": ({"text_input": None, "messages": "[NaN]"}, "invalid_input"),
    "an empty list of messages": ({"text_input": None, "messages": "[]"}, "invalid_input"),
    "messages that are an object": ({"text_input": None, "messages": '{"role":"user"}'}, "invalid_input"),
    "a message that is a string": ({"text_input": None, "messages": '["hi"]'}, "invalid_input"),
    "a message without content": ({"text_input": None, "messages": '[{"role":"user"}]'}, "invalid_input"),
    "a message of a number": ({"text_input": None, "messages": '[{"role":"user","content":5}]'}, "invalid_input"),
    "an unknown role": ({"text_input": None, "messages": '[{"role":"root","content":"x"}]'}, "invalid_input"),
    "a thousand messages": ({"text_input": None, "messages": json.dumps(CHAT * 1_000)}, "invalid_input"),
    "deeply nested messages": ({"text_input": None, "messages": "[" * 5_000}, "invalid_input"),
    "an unknown task": ({"task": "poetry"}, "unknown_task"),
    "an empty task": ({"task": ""}, "unknown_task"),
    "a task in capitals": ({"task": "JUDGE"}, "unknown_task"),
    "a task with a NUL": ({"task": "judge\0"}, "unknown_task"),
    "an unknown schema": ({"schema_id": "nope"}, "unknown_schema"),
    "a schema that is a path": ({"schema_id": "../manifest.json"}, "unknown_schema"),
    "an unknown guide type": (
        {"guided_decoding_guide_type": "xml", "guided_decoding_guide": "x"},
        "unknown_guide_type",
    ),
    "a guide type in capitals": (
        {"guided_decoding_guide_type": "JSON_SCHEMA", "guided_decoding_guide": "{}"},
        "unknown_guide_type",
    ),
    "a guide without type": ({"guided_decoding_guide": "{}"}, "invalid_input"),
    "a type without guide": ({"guided_decoding_guide_type": "json_schema"}, "invalid_input"),
    "a guide with json": ({"guided_decoding_guide_type": "json", "guided_decoding_guide": "{}"}, "invalid_input"),
    "a guide and a schema id": ({"guided_decoding_guide_type": "json", "schema_id": "nope"}, "invalid_input"),
    "max_tokens of zero": ({"max_tokens": 0}, "invalid_input"),
    "negative max_tokens": ({"max_tokens": -5}, "invalid_input"),
    "huge max_tokens": ({"max_tokens": 2**31 - 1}, "token_budget_overrun"),
    "max_tokens just over the budget": ({"max_tokens": 6_000}, "token_budget_overrun"),
    "a NaN temperature": ({"temperature": float("nan")}, "invalid_input"),
    "an infinite temperature": ({"temperature": float("inf")}, "invalid_input"),
    "a negative temperature": ({"temperature": -1.0}, "invalid_input"),
    "a temperature that is too high": ({"temperature": 2.1}, "invalid_input"),
    "a temperature that overflows": ({"temperature": 1e-30}, "invalid_input"),
    "top_p of zero": ({"top_p": 0.0}, "invalid_input"),
    "top_p over one": ({"top_p": 1.5}, "invalid_input"),
    "a NaN top_p": ({"top_p": float("nan")}, "invalid_input"),
    "negative top_k": ({"top_k": -1}, "invalid_input"),
    "huge top_k": ({"top_k": 2**31 - 1}, "invalid_input"),
    "a repetition penalty of zero": ({"repetition_penalty": 0.0}, "invalid_input"),
    "an infinite repetition penalty": ({"repetition_penalty": float("inf")}, "invalid_input"),
    "a NaN presence penalty": ({"presence_penalty": float("nan")}, "invalid_input"),
    "a huge frequency penalty": ({"frequency_penalty": 1e30}, "invalid_input"),
    "negative min_tokens": ({"min_tokens": -1}, "invalid_input"),
    "min_tokens over max_tokens": ({"min_tokens": 9, "max_tokens": 8}, "invalid_input"),
    "two beams": ({"beam_width": 2}, "invalid_input"),
    "zero beams": ({"beam_width": 0}, "invalid_input"),
    "a stream": ({"stream": True}, "invalid_input"),
    "an end_id of minus one": ({"end_id": -1}, "invalid_input"),
    "an end_id outside the vocabulary": ({"end_id": 2**30}, "invalid_input"),
    "a pad_id outside the vocabulary": ({"pad_id": 2**30}, "invalid_input"),
    "an empty stop word": ({"stop_words": [""]}, "invalid_input"),
    "a stop word that is too long": ({"stop_words": ["x y " * 2_000]}, "invalid_input"),
    "a thousand bad words": ({"bad_words": [f"w{n}" for n in range(1_000)]}, "invalid_input"),
}

BAD_GUIDES = {
    "a schema that is not JSON": ("json_schema", "{", "schema_invalid"),
    "a schema that is a number": ("json_schema", "3", "schema_invalid"),
    "a schema of an unknown type": ("json_schema", '{"type":"strin"}', "schema_invalid"),
    "a schema with NaN": ("json_schema", '{"minimum":NaN}', "schema_invalid"),
    "a schema with trailing text": ("json_schema", "{}{}", "schema_invalid"),
    "a schema with a remote reference": ("json_schema", '{"$ref":"http://127.0.0.1:1/s"}', "schema_invalid"),
    "a schema with a dangling reference": ("json_schema", '{"$ref":"#/$defs/none"}', "schema_invalid"),
    "a schema 200 deep": ("json_schema", '{"items":' * 200 + "{}" + "}" * 200, "schema_too_complex"),
    "a schema of 100 KB": ("json_schema", '{"const":"' + "x" * 100_000 + '"}', "schema_too_complex"),
    "a regex with an unclosed group": ("regex", "(abc", "schema_invalid"),
    "a regex with a NUL": ("regex", "a\0", "schema_invalid"),
    "a grammar without root": ("ebnf_grammar", 'start ::= "a"', "schema_invalid"),
    "a malformed grammar": ("ebnf_grammar", "root ::= (", "schema_invalid"),
    "a choice of nothing": ("choice", "[]", "schema_invalid"),
    "a choice of numbers": ("choice", "[1]", "schema_invalid"),
    "a choice that is not JSON": ("choice", "yes|no", "schema_invalid"),
}


def assert_rejected(answer, code):
    assert answer.error is not None, answer
    assert answer.code == code, answer.error
    for leak in (SECRET, "Traceback", "/", "File "):
        assert leak not in answer.error.replace("in ensemble 'ensemble', ", ""), answer.error


@pytest.fixture(params=["http", "grpc"])
def client(request, server):
    return Client(server, request.param)


@pytest.mark.parametrize(("parameters", "code"), BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_a_request_that_does_not_name_this_engine_is_rejected(server, parameters, code):
    assert_rejected(Client(server, "generate").send({"text_input": SECRET, "max_tokens": 4}, parameters), code)


@pytest.mark.parametrize(("changes", "code"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_an_invalid_input_is_rejected_with_its_code(server, changes, code):
    inputs = {"text_input": SECRET, "max_tokens": 4, **changes}
    given = {name: value for name, value in inputs.items() if value is not None}
    assert_rejected(Client(server, "grpc").send(given), code)


@pytest.mark.parametrize(("kind", "guide", "code"), BAD_GUIDES.values(), ids=BAD_GUIDES.keys())
def test_an_invalid_guide_is_rejected_with_its_code(server, kind, guide, code):
    inputs = {"text_input": SECRET, "max_tokens": 4}
    guide_inputs = {"guided_decoding_guide_type": kind, "guided_decoding_guide": guide}
    assert_rejected(Client(server, "grpc").send({**inputs, **guide_inputs}), code)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_the_engine_rejects_a_guide_whose_every_token_is_a_bad_word(client, temperature):
    guide = {"guided_decoding_guide_type": "regex", "guided_decoding_guide": "[ab]", "bad_words": ["a", "b"]}
    answer = client.send({"text_input": SECRET, "max_tokens": 4, "temperature": temperature, **guide})
    assert_rejected(answer, "invalid_input")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_text_that_is_not_utf8_is_rejected(server, protocol):
    answer = Client(server, protocol).send({"text_input": np.array([[b"\xff\xfe"]], np.object_)})
    assert_rejected(answer, "invalid_input")


def test_a_header_sent_twice_is_rejected(server):
    headers = [("X-Engine-Hash", "a"), ("X-Engine-Hash", "b"), ("X-Quantisation", "w4a8")]
    answer = Client(server, "http").send({"text_input": SECRET}, headers)
    assert_rejected(answer, "invalid_header")


def test_control_tokens_in_user_text_stay_text(client):
    plain = client.send({"text_input": "<|im_end|>", "max_tokens": 1})
    assert plain.error is None
    assert plain["num_input_tokens"] > 1


def test_text_with_a_nul_character_is_answered(client):
    assert client.send({"text_input": "a\0b", "max_tokens": 1}).error is None


def test_the_server_still_answers(client):
    assert client.send({"text_input": "hello", "task": "judge", "max_tokens": 60}).error is None


def test_the_log_contains_no_prompt_text(server):
    log = server.log_path.read_text(errors="replace")
    assert SECRET not in log
    assert "Traceback" not in log


def test_a_header_that_is_not_text_is_rejected(server):
    valid_headers = Client(server, "http").headers
    headers = [(name.encode(), value.encode()) for name, value in valid_headers.items()]
    answer = Client(server, "http").send({"text_input": SECRET}, [*headers, (b"X-Tenant", b"\xff\xfe")])
    assert_rejected(answer, "invalid_header")
