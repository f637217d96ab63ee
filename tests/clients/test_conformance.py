"""The OpenAI API's requests and answers against the forms in the official SDK, made from OpenAI's OpenAPI document."""

import json
from typing import Any, Literal

import httpx
import openai.types
import openai.types.chat
import pytest
from openai.types.chat import completion_create_params as chat_params
from pydantic import TypeAdapter

from llmstack.openai.chat_request import ChatRequest
from llmstack.openai.completion_request import CompletionRequest
from llmstack.openai.generation_request import GenerationRequest
from tests.clients.openai_service import base_url, model_name, serve_openai

pytestmark = pytest.mark.server
ORDER = "Ada Lovelace placed order ORD-4711. The customer wants 5 of the lamp. The status is packed. It is not a gift."
MESSAGES = [{"role": "user", "content": ORDER}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": ["x"]}},
    "required": ["a"],
    "additionalProperties": False,
}
CHAT, TEXT = "chat/completions", "completions"
STRICT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


class TextChunkChoice(openai.types.CompletionChoice):
    """A chunk has a reason once the text ends; OpenAI's own chunks have null until then, which its form leaves out."""

    finish_reason: Literal["stop", "length", "content_filter"] | None


class TextChunk(openai.types.Completion):
    choices: list[TextChunkChoice]  # type: ignore[assignment]


# Of each endpoint: the form of requests, of whole answers and of chunks.
FORMS: dict[str, tuple[Any, ...]] = {
    CHAT: (
        TypeAdapter(chat_params.CompletionCreateParams),
        openai.types.chat.ChatCompletion,
        openai.types.chat.ChatCompletionChunk,
    ),
    TEXT: (
        TypeAdapter(openai.types.completion_create_params.CompletionCreateParams),
        openai.types.Completion,
        TextChunk,
    ),
}
# Members that the API adds to OpenAI's forms.
OWN_MEMBERS = {"llmstack"}
REQUESTS = [
    (CHAT, {}),
    (CHAT, {"logprobs": True}),
    (CHAT, {"logprobs": True, "top_logprobs": 0}),
    (CHAT, {"response_format": {"type": "text"}}),
    (CHAT, {"response_format": {"type": "json_object"}}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}),
    (
        CHAT,
        {"response_format": STRICT},
    ),
    (CHAT, {"temperature": 2, "top_p": 1, "presence_penalty": -2, "frequency_penalty": 2, "seed": -1, "n": 1}),
    (CHAT, {"stop": ["e", "a", "o", "i"]}),
    (CHAT, {"stop": "e", "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}),
    (CHAT, {"max_completion_tokens": 3, "modalities": ["text"], "reasoning_effort": "low", "verbosity": "low"}),
    (CHAT, {"messages": [{"role": "developer", "content": [{"type": "text", "text": "a"}]}, *MESSAGES]}),
    (
        CHAT,
        {
            "messages": [
                {"role": "system", "content": "a", "name": "b"},
                *MESSAGES,
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
                *MESSAGES,
            ]
        },
    ),
    (TEXT, {}),
    (TEXT, {"logprobs": 0}),
    (TEXT, {"echo": True, "best_of": 1, "suffix": None, "logit_bias": None}),
    (TEXT, {"prompt": ["Ada"], "stop": ["e", "a"], "seed": 3, "user": "u", "temperature": 0.5}),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serve_openai(tmp_path_factory.mktemp("conformance")) as live:
        yield live


@pytest.fixture(scope="module")
def model(service):
    return model_name(service)


def post(service, path, body):
    return httpx.post(f"{base_url(service)}/{path}", json=body, headers=service.headers, timeout=60)


def complete(path, model, changes):
    given = {"messages": MESSAGES} if path == CHAT else {"prompt": ORDER}
    body = {"model": model, "max_tokens": 6, **given, **changes}
    FORMS[path][0].validate_python(body, strict=True)
    return body


def read_strictly(form, text):
    """The answer in the SDK's form: no value is converted, and no member is unknown to it at any depth."""
    answer = form.model_validate_json(text, strict=True)
    assert unknown_members(answer) <= OWN_MEMBERS
    # What the form keeps is what was sent: nothing got lost in a default.
    sent = json.loads(text)
    assert json.loads(answer.model_dump_json(exclude_unset=True)) == sent
    return answer


def unknown_members(value):
    if isinstance(value, openai.BaseModel):
        found = set(value.model_extra or {})
        return found.union(*(unknown_members(getattr(value, name)) for name in type(value).model_fields))
    return set().union(*map(unknown_members, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(("path", "changes"), REQUESTS)
def test_a_whole_answer_has_openais_form(service, model, path, changes):
    answer = post(service, path, complete(path, model, changes))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    whole = read_strictly(FORMS[path][1], answer.content)
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


@pytest.mark.parametrize("options", [{"stream": True}, USAGE], ids=["without usage", "with usage"])
@pytest.mark.parametrize(("path", "changes"), REQUESTS)
def test_every_event_of_a_stream_has_openais_form(service, model, path, changes, options):
    answer = post(service, path, complete(path, model, {**changes, **options}))
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    chunks = [read_strictly(FORMS[path][2], event.removeprefix("data: ")) for event in events]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    if options is USAGE:
        *chunks, usage = chunks
        assert (usage.choices, usage.usage.completion_tokens > 0) == ([], True)
    assert all(chunk.usage is None for chunk in chunks)
    assert [chunk.choices[0].finish_reason is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_models_have_openais_form(service, model):
    listed = httpx.get(f"{base_url(service)}/models", timeout=10).json()
    assert listed["object"] == "list"
    for card in listed["data"]:
        read_strictly(openai.types.Model, json.dumps(card))
    read_strictly(openai.types.Model, httpx.get(f"{base_url(service)}/models/{model}", timeout=10).text)


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_an_error_has_openais_members(service, model, path):
    answer = post(service, path, complete(path, model, {"n": 2}))
    error = openai.types.shared.ErrorObject.model_validate(answer.json()["error"], strict=True)
    assert (error.code, error.param, error.type) == ("unsupported_parameter", "n", "invalid_request_error")


def members(path):
    schema = FORMS[path][0].json_schema()
    return {name for form in schema["anyOf"] for name in schema["$defs"][form["$ref"].rpartition("/")[2]]["properties"]}


# A value of each of OpenAI's members that the API neither supports nor has to refuse.
IGNORED = {
    "metadata": {"a": "b"},
    "moderation": None,
    "parallel_tool_calls": False,
    "prompt_cache_key": "a",
    "prompt_cache_options": {},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "safety_identifier": "a",
    "service_tier": "auto",
    "store": True,
    "user": "a",
    "verbosity": "low",
}
REFUSED = {
    "audio": {"format": "mp3", "voice": "alloy"},
    "best_of": 2,
    "function_call": {"name": "a"},
    "functions": [{"name": "a"}],
    "logit_bias": {"1": 1},
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "a"},
    "suffix": "a",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "a"}}],
    "web_search_options": {},
}


@pytest.mark.parametrize(("path", "form"), [(CHAT, ChatRequest), (TEXT, CompletionRequest)])
def test_each_of_openais_members_is_supported_ignored_or_refused(service, model, path, form: type[GenerationRequest]):
    for name in sorted(members(path) - set(form.model_fields)):
        assert (name in IGNORED) != (name in REFUSED), f"OpenAI has a member {name} that no list knows"
        body = complete(path, model, {"max_tokens": 1, name: {**IGNORED, **REFUSED}[name]})
        answer = post(service, path, body)
        if name in IGNORED:
            assert answer.status_code == 200, answer.text
            assert body[name] is None or answer.headers["x-llmstack-ignored"] == name
        else:
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
