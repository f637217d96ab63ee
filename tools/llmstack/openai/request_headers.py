"""The headers that go through to Triton as the client sent them, and the request's id."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from llm_policy.api_key import contains_key
from llm_policy.rules.headers import (
    ENGINE_HASH,
    KEY_HEADERS,
    QUANTISATION,
    REQUEST_ID,
    TENANT,
    TRACEPARENT,
    loggable,
)
from llmstack.openai.error import ApiError

_FORWARDED = {
    name.lower().encode() for name in (ENGINE_HASH, QUANTISATION, TENANT, REQUEST_ID, TRACEPARENT, *KEY_HEADERS)
}
_KEY_HEADERS = {name.lower() for name in KEY_HEADERS}
_REQUEST_ID, _ENGINE_HASH = REQUEST_ID.lower(), ENGINE_HASH.lower()
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_MAX_NAMES = 20


class RequestHeaders(NamedTuple):
    """The metadata of the gRPC call. A header that was sent twice is there twice: the policy rejects that."""

    metadata: tuple[tuple[str, str], ...]
    request_id: str

    @property
    def engine_hash(self) -> str:
        """The engine that the client asked for; empty without the header."""
        return next((value for name, value in self.metadata if name == _ENGINE_HASH), "")

    @property
    def key_headers(self) -> list[tuple[str, str]]:
        """The headers that may hold an API key."""
        return [(name, value) for name, value in self.metadata if name in _KEY_HEADERS]


def read_headers(headers: Iterable[tuple[bytes, bytes]]) -> RequestHeaders:
    """The headers of one request, with an id where the client sent none.

    Raises:
        ApiError: `invalid_header`, a value can't be gRPC metadata.
    """
    metadata = [(name.decode(), _text(name, value)) for name, value in headers if name in _FORWARDED]
    request_id = next((value for name, value in metadata if name == _REQUEST_ID), "")
    if not request_id and all(name != _REQUEST_ID for name, _ in metadata):
        request_id = f"req_{secrets.token_hex(16)}"
        metadata.append((_REQUEST_ID, request_id))
    return RequestHeaders(tuple(metadata), loggable(request_id))


def ignored_header(names: Sequence[str]) -> dict[str, str]:
    """The response header that names the parameters without effect; empty if there are none."""
    shown = sorted(name for name in names if _NAME.fullmatch(name) and not contains_key(name))[:_MAX_NAMES]
    return {"x-llmstack-ignored": ", ".join(shown)} if shown else {}


def _text(name: bytes, value: bytes) -> str:
    text = value.decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise ApiError("invalid_header", f"{name.decode()} has characters that are not printable ASCII")
    return text
