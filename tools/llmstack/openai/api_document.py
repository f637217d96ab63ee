"""The OpenAPI document, made from the forms of requests and answers."""

from __future__ import annotations

import importlib.metadata
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
)
from llmstack.openai.chat_request import ChatRequest
from llmstack.openai.completion_request import CompletionRequest

_REF = "#/components/schemas/{name}"
_ERROR_STATUSES = (400, 401, 403, 404, 413, 429, 500, 503)
_HEADERS = {
    "X-Engine-Hash": "The engine that the client wants. The policy requires it.",
    "X-Quantisation": "Its quantisation label. The policy requires it.",
    "X-Tenant": "The tenant.",
    "X-Request-Id": "The client's id of the request; made up without one.",
    "traceparent": "W3C trace context.",
}


def make_document() -> dict[str, Any]:
    """The document of `/openapi.json`."""
    answers = (ChatCompletion, ChatCompletionChunk, TextCompletion, ModelCard, ModelList, ErrorDocument)
    _, answer_schemas = msgspec.json.schema_components(answers, ref_template=_REF)
    _, requests = models_json_schema(
        [(ChatRequest, "validation"), (CompletionRequest, "validation")], ref_template=_REF.replace("name", "model")
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "OpenAI API of the LLM serving stack",
            "version": importlib.metadata.version("llm-serving-stack"),
        },
        "paths": {
            "/v1/chat/completions": {"post": _generation("chat", ChatRequest, ChatCompletion, ChatCompletionChunk)},
            "/v1/completions": {"post": _generation("completion", CompletionRequest, TextCompletion, TextCompletion)},
            "/v1/models": {"get": {"operationId": "models", "responses": {"200": _answer("The models.", ModelList)}}},
            "/v1/models/{name}": {"get": _model()},
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
        "parameters": [
            {"name": header, "in": "header", "description": text, "schema": {"type": "string"}}
            for header, text in _HEADERS.items()
        ],
        "requestBody": {"required": True, "content": _content(request)},
        "responses": {"200": {"description": "The answer; chunks with stream.", "content": content}, **_errors()},
    }


def _model() -> dict[str, Any]:
    return {
        "operationId": "model",
        "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
        "responses": {"200": _answer("The model.", ModelCard), "404": _answer("Unknown.", ErrorDocument)},
    }


def _errors() -> dict[str, Any]:
    return {str(status): _answer("See `code`.", ErrorDocument) for status in _ERROR_STATUSES}


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
