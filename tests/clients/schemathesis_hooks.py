"""Hooks of schemathesis: generated requests reach the engine and ask it for little.

The name of the model is in MODEL_NAME. Without it every generated request would be for a model that does not exist.
Every second request is also freed of what the server refuses by its documentation, so that both kinds are sent.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

import schemathesis  # type: ignore[import-not-found]

MODEL = os.environ["MODEL_NAME"]
MAX_TOKENS = 4
_LENGTHS = ("max_tokens", "max_completion_tokens", "min_tokens")
_GUIDES = ("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
_SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
_FORMATS = (
    {"type": "text"},
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA, "strict": True}},
)
_REFUSED = (
    *("n", "top_logprobs", "task", "schema_id", "tools", "tool_choice", "functions", "function_call", "audio"),
    *("modalities", "prediction", "web_search_options", "logit_bias", "best_of", "suffix", "stream_options"),
)
_HEADERS = ("x-tenant", "x-request-id", "traceparent", "x-api-key")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Change the body for the release's model, with a limit on its answer. Values of wrong types stay as they are."""
    choice = zlib.crc32(repr((case.body, case.path_parameters)).encode(errors="replace"))
    is_changed = bool(choice % 2)
    if is_changed and "name" in (case.path_parameters or {}):
        case.path_parameters["name"] = MODEL
    if not isinstance(case.body, dict):
        return
    body = {**case.body, **_limits(case.body)}
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    if is_changed:
        for name in [name for name in case.headers if name.lower() in _HEADERS]:
            del case.headers[name]
    if is_changed and _is_valid(case):
        body = _supported(body, choice // 2)
    case.body = body


def _limits(body: dict[str, Any]) -> dict[str, int]:
    limits = {name: MAX_TOKENS for name in _LENGTHS if _is_long(body.get(name))}
    if all(body.get(name) is None for name in _LENGTHS[:2]):
        limits["max_tokens"] = MAX_TOKENS
    return limits


def _is_long(value: Any) -> bool:
    return isinstance(value, int) and MAX_TOKENS < value < 2**31


def _is_valid(case: Any) -> bool:
    return case.meta is None or case.meta.generation.mode.is_positive


def _supported(body: dict[str, Any], choice: int) -> dict[str, Any]:
    """The body without members that are refused, and with at most one guide."""
    kept = {name: value for name, value in body.items() if name not in (*_GUIDES, *_REFUSED)}
    if choice % 2:
        kept["response_format"] = _FORMATS[choice % len(_FORMATS)]
    if "messages" in kept:
        kept["messages"] = [_message(message) for message in kept["messages"]] or [{"role": "user", "content": "a"}]
    if "prompt" in kept:
        kept["prompt"] = str(kept["prompt"]) or "a"
        kept.pop("logprobs", None)
    if kept.get("top_p"):
        kept["top_p"] = max(kept["top_p"], 0.01)
    return {**kept, "stream": bool(choice // 6 % 2)}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    role = message["role"] if message["role"] not in ("tool", "function") else "user"
    content = message.get("content")
    if isinstance(content, list):
        content = [{"type": "text", "text": part.get("text") or "a"} for part in content]
    return {"role": role, "content": content}
