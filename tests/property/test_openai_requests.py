"""Whatever a client sends to the OpenAI API, the answer has a form of the OpenAPI document, and is no 500."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import httpx
import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2_grpc

from llmstack.openai.api_document import make_document
from llmstack.openai.app import OpenAIApi, make_app
from llmstack.openai.chat_request import ChatRequest
from llmstack.openai.completion_request import CompletionRequest
from llmstack.openai.model_names import ModelNames
from tests.unit.openai.triton_servicer import Servicer

COMPONENTS = make_document()["components"]
REFUSED = ("tools", "functions", "tool_choice", "audio", "modalities", "logit_bias", "best_of", "suffix", "prediction")
TEXTS = st.text(max_size=8) | st.sampled_from(
    ["text", "json_schema", "json_object", "user", "system", "ensemble", "\ud800"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
PARTS = st.lists(st.fixed_dictionaries({"type": TEXTS}, optional={"text": JSON}), max_size=2)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "user", "system", "developer", "assistant", "tool"])},
        optional={"content": TEXTS | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS})) | PARTS},
    ),
    max_size=3,
)
FORMATS = st.fixed_dictionaries(
    {"type": TEXTS}, optional={"json_schema": st.fixed_dictionaries({"name": TEXTS}, optional={"schema": JSON}) | JSON}
)


LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "messages": MESSAGES,
    "prompt": TEXTS | st.lists(TEXTS, max_size=2),
    "model": st.sampled_from(["ensemble", "ensemble", "ensemble:judge", "poem"]),
    "response_format": FORMATS,
    "structured_outputs": st.dictionaries(st.sampled_from(["json", "regex", "choice", "grammar"]), JSON, max_size=2),
    "stop": TEXTS | st.lists(TEXTS, max_size=2),
}
BOOLEANS = ("stream", "echo", "store")
NUMBERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
WHOLE_NUMBERS = ("n", "max_tokens", "max_completion_tokens", "min_tokens", "top_k", "seed", "top_logprobs")
LIKELY |= dict.fromkeys(BOOLEANS, st.booleans())
LIKELY |= dict.fromkeys(NUMBERS, st.floats(0.1, 1))
LIKELY |= dict.fromkeys(WHOLE_NUMBERS, st.integers(0, 2))


@st.composite
def bodies(draw: st.DrawFn, request_type: type[ChatRequest | CompletionRequest]) -> Any:
    """A request with some members, most of them of the right type."""
    names = [field.alias or name for name, field in request_type.model_fields.items()]
    needed = ["model", "messages" if request_type is ChatRequest else "prompt"]
    chosen = draw(st.lists(st.sampled_from([*names, *REFUSED, "x"]), max_size=4, unique=True))
    body = {}
    for name in dict.fromkeys([*needed, *chosen]):
        is_likely = draw(st.integers(0, 19)) < 19
        body[name] = draw(LIKELY.get(name, st.none() | TEXTS) if is_likely else JSON)
    return body if draw(st.integers(0, 19)) < 19 else draw(JSON)


class Front:
    """The API in this process, in front of a small gRPC server."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._open())

    async def _open(self) -> None:
        self._server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer([("a", False), ("b", True)]), self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        api = OpenAIApi([f"127.0.0.1:{port}"], ModelNames("ensemble", ("judge",)))
        app = make_app(api)
        self._connected = api.connected(app)
        await self._connected.__aenter__()
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://front")

    def post(self, path: str, body: Any) -> httpx.Response:
        content = json.dumps(body).encode()
        return self._loop.run_until_complete(self._client.post(path, content=content))

    def close(self) -> None:
        async def close() -> None:
            await self._client.aclose()
            await self._connected.__aexit__(None, None, None)
            await self._server.stop(None)

        self._loop.run_until_complete(close())
        self._loop.close()


@pytest.fixture(scope="module")
def front():
    opened = Front()
    yield opened
    opened.close()


def check(answer: httpx.Response, form: str) -> None:
    assert answer.status_code in (200, 400, 404), answer.text
    name = form if answer.status_code == 200 else "ErrorDocument"
    if answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.text.endswith("data: [DONE]\n\n")
        return
    jsonschema_rs.validate({"$ref": f"#/components/schemas/{name}", "components": COMPONENTS}, answer.json())


@given(body=bodies(ChatRequest))
def test_every_chat_request_is_answered_in_a_declared_form(front, body):
    check(front.post("/v1/chat/completions", body), "ChatCompletion")


@given(body=bodies(CompletionRequest))
def test_every_completion_request_is_answered_in_a_declared_form(front, body):
    check(front.post("/v1/completions", body), "TextCompletion")
