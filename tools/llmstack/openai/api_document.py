"""The OpenAPI document, made from the forms of requests and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

from llmstack.openai.answer import (
    ChatCompletion,
    ChatCompletionChunk,
    ErrorDocument,
    ModelCard,
    ModelList,
    TextCompletion,
    UsageAnswer,
)
from llmstack.openai.chat_request import ChatRequest
from llmstack.openai.completion_request import CompletionRequest
from llmstack.tenants.usage_report import GROUPS
from llmstack.version import project_version

_REF = "#/components/schemas/{name}"
_ERROR_STATUSES = (400, 401, 403, 404, 413, 429, 500, 503)
_USAGE_ERROR_STATUSES = (400, 401, 403, 429, 500, 503)
_KEY_HEADERS = {"X-Api-Key": "The tenant's API key; or as `Authorization: Bearer`."}
_HEADERS = {
    "X-Engine-Hash": "The engine that the client wants. The policy requires it.",
    "X-Quantisation": "Its quantisation label. The policy requires it.",
    "X-Tenant": "The tenant.",
    "X-Request-Id": "The client's id of the request; made up without one.",
    "traceparent": "W3C trace context.",
    **_KEY_HEADERS,
}


def make_document() -> dict[str, Any]:
    """The document of `/openapi.json`."""
    answers = (ChatCompletion, ChatCompletionChunk, TextCompletion, ModelCard, ModelList, UsageAnswer, ErrorDocument)
    _, answer_schemas = msgspec.json.schema_components(answers, ref_template=_REF)
    _, requests = models_json_schema(
        [(ChatRequest, "validation"), (CompletionRequest, "validation")], ref_template=_REF.replace("name", "model")
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OpenAI API of the LLM serving stack",
            "version": project_version(),
        },
        "paths": {
            "/v1/chat/completions": {"post": _generation("chat", ChatRequest, ChatCompletion, ChatCompletionChunk)},
            "/v1/completions": {"post": _generation("completion", CompletionRequest, TextCompletion, TextCompletion)},
            "/v1/models": {"get": {"operationId": "models", "responses": {"200": _answer("The models.", ModelList)}}},
            "/v1/models/{name}": {"get": _model()},
            "/v1/usage": {"get": _usage()},
            "/healthz": {
                "get": {
                    "operationId": "health",
                    "responses": {
                        "200": {"description": "A server is ready."},
                        "503": {"description": "No server is ready."},
                    },
                }
            },
        },
        "components": {"schemas": {**requests["$defs"], **answer_schemas}},
    }


def _generation(name: str, request: type, answer: type, chunk: type) -> dict[str, Any]:
    content = {**_content(answer), "text/event-stream": {"schema": _event(chunk)}}
    return {
        "operationId": name,
        "parameters": _header_parameters(_HEADERS),
        "requestBody": {"required": True, "content": _content(request)},
        "responses": {"200": {"description": "The answer; chunks with stream.", "content": content}, **_errors()},
    }


def _model() -> dict[str, Any]:
    return {
        "operationId": "model",
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
        "responses": {"200": _answer("The model.", ModelCard), "404": _answer("Unknown.", ErrorDocument)},
    }


def _usage() -> dict[str, Any]:
    day = {"type": "string", "format": "date"}
    queries = {
        "by": ("How the sums are grouped; by day without.", {"type": "string", "enum": list(GROUPS)}),
        "since": ("From this day (UTC); 30 days without.", day),
        "until": ("Up to and including this day (UTC); today without.", day),
        "tenant": ("Only the API key's own.", {"type": "string"}),
    }
    return {
        "operationId": "usage",
        "parameters": [
            *(
                {"name": name, "in": "query", "description": text, "schema": form}
                for name, (text, form) in queries.items()
            ),
            *_header_parameters(_KEY_HEADERS),
        ],
        "responses": {
            "200": _answer("What the API key's tenant used.", UsageAnswer),
            **_errors(_USAGE_ERROR_STATUSES),
        },
    }


def _header_parameters(headers: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": header, "in": "header", "description": text, "schema": {"type": "string"}}
        for header, text in headers.items()
    ]


def _errors(statuses: Sequence[int] = _ERROR_STATUSES) -> dict[str, Any]:
    return {str(status): _answer("See `code`.", ErrorDocument) for status in statuses}


def _answer(description: str, form: type) -> dict[str, Any]:
    return {"description": description, "content": _content(form)}


def _event(chunk: type) -> dict[str, Any]:
    """One server-sent event: a chunk, an error, or the end."""
    payload = {"anyOf": [_schema(chunk), _schema(ErrorDocument)]}
    text = {"type": "string", "contentMediaType": "application/json", "contentSchema": payload}
    return {
        "type": "object",
        "properties": {"data": {"anyOf": [{"const": "[DONE]"}, text]}},
        "required": ["data"],
    }


def _content(form: type) -> dict[str, Any]:
    return {"application/json": {"schema": _schema(form)}}


def _schema(form: type) -> dict[str, str]:
    return {"$ref": _REF.format(name=form.__name__)}
