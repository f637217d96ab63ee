"""Requests become inputs of the ensemble, or are refused with the member at fault."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params
from pydantic import TypeAdapter, ValidationError

from llmstack.openai.chat_request import ChatRequest
from llmstack.openai.completion_request import CompletionRequest
from llmstack.openai.error import ApiError
from llmstack.openai.generation_request import validation_error

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**members: Any) -> ChatRequest:
    return ChatRequest.model_validate_json(json.dumps({"model": "m", "messages": MESSAGES, **members}))


def completion(**members: Any) -> CompletionRequest:
    return CompletionRequest.model_validate_json(json.dumps({"model": "m", "prompt": "hi", **members}))


def chat_inputs(of_model: str = "", /, **members: Any) -> dict[str, Any]:
    return chat(**members).translate(of_model).inputs


def refusal(request: ChatRequest | CompletionRequest, task: str = "") -> ApiError:
    with pytest.raises(ApiError) as raised:
        request.translate(task)
    return raised.value


OPENAIS_FORMS: dict[Any, Any] = {
    ChatRequest: chat_params.CompletionCreateParams,
    CompletionRequest: completion_params.CompletionCreateParams,
}


def allows_null(schema: dict[str, Any]) -> bool:
    return schema.get("type") == "null" or any(map(allows_null, schema.get("anyOf", [])))


@pytest.mark.parametrize("form", OPENAIS_FORMS)
def test_null_is_absent_wherever_openai_allows_it(form):
    schema = TypeAdapter(OPENAIS_FORMS[form]).json_schema()
    forms = [schema["$defs"][each["$ref"].rpartition("/")[2]]["properties"] for each in schema["anyOf"]]
    names = {name for members in forms for name, member in members.items() if allows_null(member)}
    assert len(names) > 10
    needed = {"model": "m", "messages": MESSAGES, "prompt": "hi"}
    without = form.model_validate(needed).translate("")
    with_nulls = form.model_validate_json(json.dumps({**dict.fromkeys(names), **needed}))
    assert (with_nulls.translate(""), with_nulls.ignored) == (without, form.model_validate(needed).ignored)


@pytest.mark.parametrize("members", [{}, {"prompt": None}])
def test_a_completion_without_a_prompt_says_that_one_is_required(members):
    with pytest.raises(ValidationError) as raised:
        CompletionRequest.model_validate_json(json.dumps({"model": "m", **members}))
    error = validation_error(raised.value)
    assert (error.message, error.param) == ("prompt: Field required", "prompt")


def test_a_request_with_tools_is_refused_because_of_them_whatever_comes_first():
    assert refusal(chat(tool_choice="required", tools=[{}])).param == "tools"


def test_a_plain_chat_has_no_input_but_its_messages():
    assert chat_inputs() == {"messages": b'[{"role":"user","content":"hi"}]'}


def test_a_plain_completion_has_no_input_but_its_text():
    assert completion().translate("").inputs == {"text_input": "hi"}
    assert completion(prompt=["hi"]).translate("").inputs == {"text_input": "hi"}


def test_values_keep_their_names_or_get_the_ensembles():
    given: dict[str, Any] = {
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 4,
        "presence_penalty": 1.5,
        "frequency_penalty": -2,
    }
    given |= {"repetition_penalty": 1.1, "min_tokens": 2, "bad_words": ["x"], "schema_id": "order", "task": "judge"}
    assert chat_inputs(**given, stop="a", seed=7).items() >= {**given, "stop_words": ["a"], "seed": 7}.items()


def test_max_completion_tokens_goes_before_max_tokens():
    assert chat_inputs(max_tokens=5)["max_tokens"] == 5
    translation = chat(max_tokens=5, max_completion_tokens=7).translate("")
    assert (translation.inputs["max_tokens"], translation.parameters["max_tokens"]) == (7, "max_completion_tokens")


def test_a_negative_seed_is_one_of_the_engines_seeds():
    assert chat_inputs(seed=-1)["seed"] == 2**64 - 1


@pytest.mark.parametrize("empty", [None, [], ""])
def test_an_empty_stop_is_none(empty):
    assert "stop_words" not in chat_inputs(stop=empty)


def test_parts_are_joined_and_developer_is_system():
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None},
    ]
    assert json.loads(chat_inputs(messages=messages)["messages"]) == [
        {"role": "system", "content": "ab"},
        {"role": "assistant", "content": ""},
    ]


def test_the_models_name_gives_the_task():
    assert chat_inputs("judge")["task"] == "judge"
    assert chat_inputs("judge", task="judge")["task"] == "judge"
    assert refusal(chat(task="generate_json"), "judge").param == "task"


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"tools": [{}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"prediction": {"type": "content"}}, "prediction"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [*MESSAGES, {"role": "assistant", "tool_calls": [{}]}]}, "messages[1].tool_calls"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    ],
)
def test_what_can_not_be_honoured_is_refused_with_its_name(members, param):
    error = refusal(chat(**members))
    assert (error.status, error.param) == (400, param)


@pytest.mark.parametrize(
    "members",
    [
        {"n": 1, "tools": [], "tool_choice": "none", "logit_bias": {}, "modalities": ["text"], "top_logprobs": 0},
        {"n": None, "tools": None, "audio": None, "response_format": {"type": "text"}, "stream_options": None},
    ],
)
def test_neutral_values_are_accepted(members):
    assert chat_inputs(**members) == chat_inputs()


@pytest.mark.parametrize(
    ("members", "param"),
    [({"logprobs": 1}, "logprobs"), ({"echo": True, "logprobs": 0}, "echo"), ({"best_of": 2}, "best_of")],
)
def test_a_completion_refuses_what_it_can_not_honour(members, param):
    assert refusal(completion(**members)).param == param


@pytest.mark.parametrize("prompt", [["a", "b"], [], [1, 2], [[1], [2]]])
def test_a_completion_takes_one_text(prompt):
    assert refusal(completion(prompt=prompt)).param == "prompt"


def test_echo_and_log_probabilities_are_inputs():
    assert completion(echo=True).translate("").inputs["exclude_input_in_output"] is False
    assert completion(logprobs=0).translate("").inputs["return_log_probs"] is True
    assert chat_inputs(logprobs=True)["return_log_probs"] is True


def test_unknown_members_are_ignored_and_named():
    request = chat(user="u", store=True, made_up=[1], absent=None)
    assert sorted(request.ignored) == ["made_up", "store", "user"]
    assert request.translate("").inputs.keys() == {"messages"}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"temperature": "1"}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"stop": [1]}, "stop[0]"),
        ({"stream": "yes"}, "stream"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "poet", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages[0].content"),
        ({"response_format": {"type": "poem"}}, "response_format.type"),
    ],
)
def test_a_value_of_the_wrong_form_is_refused_with_its_place_and_not_quoted(members, param):
    with pytest.raises(ValidationError) as raised:
        chat(**members)
    error = validation_error(raised.value)
    assert error.status == 400
    assert error.param.startswith(param)
