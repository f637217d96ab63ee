"""The header gate: a request must name the engine that this server runs.

Triton forwards matching HTTP headers and gRPC metadata as request parameters; members of a `/generate` body that are
not tensors become parameters too. HTTP keeps the spelling `X-Engine-Hash`, gRPC lower-cases it, so names are compared
case-insensitively. A header sent twice arrives twice and is an error (RFC 9110 5.3: these headers are not lists).
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from llm_policy.errors import Code, InvalidRequest

ENGINE_HASH = "X-Engine-Hash"
QUANTISATION = "X-Quantisation"
TENANT = "X-Tenant"
REQUEST_ID = "X-Request-Id"
CANARY_TOKEN = "X-Canary-Token"  # noqa: S105 - a header's name
TRACEPARENT = "traceparent"
# Tenant of the parent process's own requests; only a request with the canary token may use it.
CANARY_TENANT = "llmstack-canary"
MAX_HEADER_CHARS = 128
MAX_CACHED_RESULTS = 256
MAX_CACHED_CHARS = 1_024

_BY_LOWER = {name.lower(): name for name in (ENGINE_HASH, QUANTISATION, TENANT, REQUEST_ID, CANARY_TOKEN)}
_REQUIRED = (ENGINE_HASH, QUANTISATION)
# W3C Trace Context: version (not ff), trace id and parent id (not all zeros), flags.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")


class Headers(NamedTuple):
    """The accepted headers. A field is empty if the client did not send it, `trace_id` also if it was malformed."""

    tenant: str
    request_id: str
    is_canary: bool = False
    trace_id: str = ""


class HeaderRejection(InvalidRequest):
    """Invalid headers. `headers` holds the valid ones, so that ledger and log can name the client."""

    def __init__(self, code: Code, detail: str, headers: Headers) -> None:
        super().__init__(code, detail)
        self.headers = headers


class _HeaderError(NamedTuple):
    code: Code
    detail: str


class HeaderGate:
    """Compares a request's headers with the one engine this server runs."""

    def __init__(self, engine_hash: str, quantisation: str, canary_token: str = "") -> None:
        self._canary_token = canary_token
        self._expected = {
            ENGINE_HASH: (engine_hash, Code.ENGINE_HASH_MISMATCH),
            QUANTISATION: (quantisation, Code.QUANTISATION_MISMATCH),
        }
        # Clients repeat their headers. lru_cache keeps results only, no exceptions.
        self._check_cached = lru_cache(MAX_CACHED_RESULTS)(self._check)

    def check(self, parameters_json: str) -> Headers:
        """Check the headers in a request's parameters (the JSON text that `InferenceRequest.parameters()` returns).

        Raises:
            HeaderRejection: its text lists every header error; its code is that of the first.
        """
        is_short = len(parameters_json) <= MAX_CACHED_CHARS
        return self._check_cached(parameters_json) if is_short else self._check(parameters_json)

    def _check(self, parameters_json: str) -> Headers:
        values: dict[str, str] = {}
        pairs = _pairs(parameters_json)
        errors = [*_read_values(pairs, values)]
        errors += self._compare(values, {error.detail.split(" ", 1)[0] for error in errors})
        errors += self._check_canary(values)
        tenant, request_id, trace_id = values.get(TENANT, ""), values.get(REQUEST_ID, ""), _trace_id(pairs)
        if errors:
            valid = Headers("" if tenant == CANARY_TENANT else tenant, request_id, trace_id=trace_id)
            raise _rejection(errors, valid)
        is_canary = CANARY_TOKEN in values
        return Headers(CANARY_TENANT if is_canary else tenant, request_id, is_canary, trace_id)

    def _check_canary(self, values: dict[str, str]) -> list[_HeaderError]:
        token = values.get(CANARY_TOKEN)
        if token is not None:
            is_valid = self._canary_token and hmac.compare_digest(token, self._canary_token)
            return [] if is_valid else [_HeaderError(Code.INVALID_HEADER, f"{CANARY_TOKEN} is not this server's token")]
        if values.get(TENANT) == CANARY_TENANT:
            return [
                _HeaderError(Code.INVALID_HEADER, f"{TENANT} {CANARY_TENANT} is reserved for the server's own requests")
            ]
        return []

    def _compare(self, values: dict[str, str], invalid_names: set[str]) -> list[_HeaderError]:
        errors = []
        for name in _REQUIRED:
            expected, mismatch = self._expected[name]
            given = values.get(name)
            if given is None:
                if name not in invalid_names:
                    errors.append(_HeaderError(Code.MISSING_HEADER, f"{name} is required, none was given"))
            elif given != expected:
                errors.append(_HeaderError(mismatch, f"{name} is {given}, this server runs {expected}"))
        return errors


def _pairs(parameters_json: str) -> list[tuple[str, object]]:
    """The members in order, duplicates included. Triton's parameters have no nested objects."""
    pairs = json.loads(parameters_json, object_pairs_hook=list) if parameters_json else []
    return pairs if isinstance(pairs, list) else []


def _read_values(pairs: Iterable[tuple[str, object]], values: dict[str, str]) -> Iterable[_HeaderError]:
    """Fill `values` by canonical header name and yield the errors of single headers."""
    seen: set[str] = set()
    for key, value in pairs:
        name = _BY_LOWER.get(key.lower())
        if name is None:
            continue
        if name in seen:
            values.pop(name, None)
            yield _HeaderError(Code.INVALID_HEADER, f"{name} was given more than once, limit 1")
            continue
        seen.add(name)
        error = _value_error(name, value)
        if error is None:
            values[name] = str(value)
        else:
            yield error


def _trace_id(pairs: Iterable[tuple[str, object]]) -> str:
    """The trace id of the only `traceparent`; W3C Trace Context says to ignore a malformed one."""
    given = [value for key, value in pairs if key.lower() == TRACEPARENT]
    match = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 and isinstance(given[0], str) else None
    return match[1] if match else ""


def is_loggable(text: str) -> bool:
    """Whether a client's id may be written to logs, the ledger and alerts: short printable ASCII."""
    return len(text) <= MAX_HEADER_CHARS and text.isascii() and text.isprintable()


def _value_error(name: str, value: object) -> _HeaderError | None:
    if not isinstance(value, str):
        return _HeaderError(Code.INVALID_HEADER, f"{name} has type {type(value).__name__}, a string is required")
    if not 1 <= len(value) <= MAX_HEADER_CHARS:
        return _HeaderError(Code.INVALID_HEADER, f"{name} has {len(value)} characters, allowed 1 to {MAX_HEADER_CHARS}")
    if not (value.isascii() and value.isprintable()):
        return _HeaderError(Code.INVALID_HEADER, f"{name} has characters that are not printable ASCII")
    return None


def _rejection(errors: list[_HeaderError], valid: Headers) -> HeaderRejection:
    first, *rest = dict.fromkeys(errors)
    text = "; ".join([first.detail, *(f"{error.code.value}: {error.detail}" for error in rest)])
    return HeaderRejection(first.code, text, valid)
