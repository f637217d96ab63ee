"""A request parameter that nobody knows is rejected on every way to the models; what Triton does on `/generate` itself.

Members of a `/generate` body that are no input become request parameters; `/infer` and gRPC have a place for them.
"""

import json
import queue

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from llmstack.server.command import STREAM_MODEL
from tests.integration.client import Client, start_call, tensors_of_call
from tests.integration.live_service import wait_until

SECRET = "tulip-marmalade-9"
TRITON_OWN = {"timeout": 30_000_000, "priority": 0, "sequence_id": 0}
TIMEOUT_S = 60.0


def over_http(server, parameters):
    """Through tritonclient, whose own parameters are not those of the request."""
    tensor = triton_http.InferInput("text_input", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[SECRET.encode()]], np.object_))
    limit = triton_http.InferInput("max_tokens", [1, 1], "INT32")
    limit.set_data_from_numpy(np.array([[2]], np.int32))
    own = {name: parameters[name] for name in TRITON_OWN if name in parameters}
    others = {name: value for name, value in parameters.items() if name not in own}
    with triton_http.InferenceServerClient(server.http_url.removeprefix("http://")) as client:
        try:
            client.infer("ensemble", [tensor, limit], headers={**server.headers}, parameters=others or None, **own)
        except triton_http.InferenceServerException as error:
            return error.message()
    return ""


def over_grpc(server, parameters):
    headers = {name.lower(): value for name, value in server.headers.items()}
    own = {name: parameters[name] for name in TRITON_OWN if name in parameters}
    others = {name: value for name, value in parameters.items() if name not in own}
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        try:
            client.infer("ensemble", tensors_of_call(2), headers=headers, parameters=others or None, **own)
        except triton_grpc.InferenceServerException as error:
            return error.message()
    return ""


def over_a_grpc_stream(server, parameters):
    headers = {name.lower(): value for name, value in server.headers.items()}
    own = {name: parameters[name] for name in TRITON_OWN if name in parameters}
    others = {name: value for name, value in parameters.items() if name not in own}
    responses = queue.Queue()
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: responses.put((result, error)), headers=headers)
        client.async_stream_infer(
            STREAM_MODEL, tensors_of_call(2), parameters=others or None, enable_empty_final_response=True, **own
        )
        while True:
            result, error = responses.get(timeout=TIMEOUT_S)
            if error is not None:
                return error.message()
            if result.get_response().parameters["triton_final_response"].bool_param:
                return ""


def generated(server, path, body):
    return httpx.post(f"{server.http_url}/v2/models/{path}", json={**body, **server.headers}, timeout=TIMEOUT_S)


def over_generate(path):
    def send(server, parameters):
        reply = generated(server, path, {"text_input": SECRET, "max_tokens": 2, **parameters})
        return reply.text if reply.status_code != 200 or '"error"' in reply.text else ""

    return send


WAYS = {
    "/infer": over_http,
    "gRPC": over_grpc,
    "a gRPC stream": over_a_grpc_stream,
    "/generate": over_generate("ensemble/generate"),
    "/generate_stream": over_generate(f"{STREAM_MODEL}/generate_stream"),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_unknown_parameter_is_rejected_with_the_nearest_name_and_without_its_value(server, way):
    error = WAYS[way](server, {"max_token": 3, "temprature": SECRET})
    assert "invalid_input: unknown parameter 'max_token', did you mean max_tokens?" in error
    assert "unknown parameter 'temprature', did you mean temperature?" in error
    assert SECRET not in error


@pytest.mark.parametrize("way", WAYS)
def test_parameters_of_triton_s_own_are_no_error(server, way):
    assert WAYS[way](server, TRITON_OWN) == ""


@pytest.mark.parametrize("way", ["/infer", "gRPC", "a gRPC stream"])
def test_an_input_among_the_parameters_is_rejected(server, way):
    assert "invalid_input: temperature is an input, but" in WAYS[way](server, {"temperature": 1})


def test_a_misspelt_prompt_is_named_unless_triton_finds_no_input_at_all(server):
    reply = generated(server, "ensemble/generate", {"prompt": SECRET, "max_tokens": 2})
    assert "unknown parameter 'prompt', did you mean text_input?" in reply.text
    reply = generated(server, "ensemble/generate", {"prompt": SECRET})
    assert (reply.status_code, "request has 0 inputs" in reply.text) == (400, True)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "hello"}]},
        {"text_input": "hello", "guided_decoding_guide_type": "json_schema", "guided_decoding_guide": {}},
        {"text_input": "hello", "max_tokens": "20"},
    ],
    ids=["messages as an array", "a guide as an object", "a number in quotes"],
)
def test_triton_answers_other_json_than_an_input_s_with_500(server, body):
    reply = generated(server, "ensemble/generate", body)
    assert reply.status_code == 500
    assert reply.json()["error"].startswith("Unable to parse")


def test_json_inside_a_string_is_taken(server):
    guide = {"guided_decoding_guide_type": "choice", "guided_decoding_guide": json.dumps(["yes", "no"])}
    messages = json.dumps([{"role": "user", "content": "hello"}])
    reply = generated(server, "ensemble/generate", {"messages": messages, "max_tokens": 8, **guide})
    assert reply.json()["text_output"] in ("yes", "no")


def test_flags_and_schema_valid_on_generate_where_nothing_is_remarkable_or_asked_for(server):
    whole = generated(server, "ensemble/generate", {"text_input": "hello", "task": "judge", "max_tokens": 120}).json()
    cut = generated(server, "ensemble/generate", {"text_input": "hello", "max_tokens": 2}).json()
    assert whole["schema_valid"] is True
    assert isinstance(whole["flags"], list)
    assert "truncated" in cut["flags"]  # one flag is a string
    assert cut["guided"] is cut["schema_valid"] is False


def test_generate_answers_400_where_infer_answers_503(paced_server):
    client, http = triton_grpc.InferenceServerClient(paced_server.grpc_url), Client(paced_server, "http")
    calls = [start_call(client, http, 300) for _ in range(2)]  # the queue has two places
    request = {"text_input": "hello", "max_tokens": 1}
    try:
        wait_until(lambda: http.send(request).code == "overloaded")
        infer, generate = http.send(request), Client(paced_server, "generate").send(request)
    finally:
        for call in calls:
            call.cancel()
        client.close()
    assert (infer.status, infer.code) == (503, "overloaded")
    assert (generate.status, generate.code) == (400, "overloaded")
