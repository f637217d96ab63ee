"""An OpenAPI document of OpenAI's chats and completions, made from the forms in the official SDK.

The SDK is made from the document that OpenAI publishes, so its forms stand for that document.
"""

from __future__ import annotations

import copy
from typing import Any

import openai
import openai.types
import openai.types.chat
from openai.types.chat import completion_create_params as chat_params
from pydantic import TypeAdapter

_PLACE = "#/components/schemas/"
# The SDK's own exceptions read these members.
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


def make_sdk_document() -> dict[str, Any]:
    """The document. Each form's own schemas have its name in front."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    forms = {
        "ChatRequest": TypeAdapter(chat_params.CompletionCreateParams).json_schema(),
        "TextRequest": TypeAdapter(openai.types.completion_create_params.CompletionCreateParams).json_schema(),
        "Chat": openai.types.chat.ChatCompletion.model_json_schema(),
        "ChatChunk": openai.types.chat.ChatCompletionChunk.model_json_schema(),
        "Text": openai.types.Completion.model_json_schema(),
        "TextChunk": _text_chunk(openai.types.Completion.model_json_schema()),
    }
    for name, form in forms.items():
        parts = form.pop("$defs", {})
        schemas[name] = _renamed(form, name)
        schemas |= {f"{name}.{part}": _renamed(schema, name) for part, schema in parts.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Forms of the official SDK", "version": openai.__version__},
        "paths": {
            "/v1/chat/completions": {"post": _operation("Chat")},
            "/v1/completions": {"post": _operation("Text")},
        },
        "components": {"schemas": schemas},
    }


def _text_chunk(form: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's own chunks of texts have null as their reason until the end, which the form leaves out."""
    chunk = copy.deepcopy(form)
    reason = chunk["$defs"]["CompletionChoice"]["properties"]["finish_reason"]
    reason["enum"] = [*reason["enum"], None]
    del reason["type"]
    return chunk


def _renamed(schema: Any, name: str) -> Any:
    if isinstance(schema, list):
        return [_renamed(each, name) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: f"{_PLACE}{name}.{value.rpartition('/')[2]}" if key == "$ref" else _renamed(value, name)
        for key, value in schema.items()
    }


def _operation(name: str) -> dict[str, Any]:
    payload = {"anyOf": [_form(f"{name}Chunk"), _form("Error")]}
    text = {"type": "string", "contentMediaType": "application/json", "contentSchema": payload}
    event = {"type": "object", "properties": {"data": {"anyOf": [{"const": "[DONE]"}, text]}}, "required": ["data"]}
    content = {**_json(name), "text/event-stream": {"schema": event}}
    return {
        "operationId": name,
        "requestBody": {"required": True, "content": _json(f"{name}Request")},
        "responses": {
            "200": {"description": "The answer.", "content": content},
            "default": {"description": "An error.", "content": _json("Error")},
        },
    }


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _form(name)}}


def _form(name: str) -> dict[str, str]:
    return {"$ref": f"{_PLACE}{name}"}
