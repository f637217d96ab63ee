"""Server-sent events: an answer in chunks, ended by `[DONE]`, or by an error event in place of it."""

from __future__ import annotations

import msgspec
import orjson

from llmstack.openai.error import ApiError

MEDIA_TYPE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
_encode = msgspec.json.Encoder().encode


def event(chunk: msgspec.Struct) -> bytes:
    """One chunk as an event."""
    return b"data: " + _encode(chunk) + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """The event after which SDKs raise an error; it is the last."""
    return b"data: " + orjson.dumps(error.document()) + b"\n\n"
