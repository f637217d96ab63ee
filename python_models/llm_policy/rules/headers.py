"""The header gate: a request must name the engine that this server runs.

Triton forwards matching HTTP headers and gRPC metadata as request parameters; members of a `/generate` body that are
not tensors become parameters too. HTTP keeps the spelling `X-Engine-Hash`, gRPC lower-cases it, so names are compared
case-insensitively. A header sent twice arrives twice and is an error (RFC 9110 5.3: these headers are not lists).

`Authorization: Bearer <key>` or `X-Api-Key` names the tenant (`rules/tenants.py`). A key in any other header is an
error that does not quote it.

Every other parameter that is not Triton's own is an error, too (`rules/parameters.py`).

A value with control characters is an error, so that none gets into the ledger, logs or alerts. Triton passes values on
as C strings, so what follows a null character is gone before the gate reads it. Only the gateway can reject those.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from llm_policy.api_key import contains_key, digest_of, is_key
from llm_policy.errors import Code, InvalidRequest
from llm_policy.ledger.row_record import RowRecord
from llm_policy.rules.parameters import ParameterNames

ENGINE_HASH = "X-Engine-Hash"
QUANTISATION = "X-Quantisation"
TENANT = "X-Tenant"
REQUEST_ID = "X-Request-Id"
CANARY_TOKEN = "X-Canary-Token"  # noqa: S105 - a header's name
TRACEPARENT = "traceparent"
AUTHORIZATION, API_KEY = KEY_HEADERS = ("Authorization", "X-Api-Key")
# A client's headers. The server forwards these and the canary's token, and no others.
CLIENT_HEADERS = (ENGINE_HASH, QUANTISATION, TENANT, REQUEST_ID, TRACEPARENT, *KEY_HEADERS)
# Tenant of the parent process's own requests; only a request with the canary token may use it.
CANARY_TENANT = "llmstack-canary"
MAX_HEADER_CHARS = 128
MAX_CACHED_RESULTS = 256
MAX_CACHED_CHARS = 1_024

_BY_LOWER = {name.lower(): name for name in (ENGINE_HASH, QUANTISATION, TENANT, REQUEST_ID, CANARY_TOKEN)}
_KEY_HEADERS_BY_LOWER = {name.lower(): name for name in KEY_HEADERS}
_BEARER = re.compile(r"bearer +(.*)", re.IGNORECASE | re.DOTALL)
_REQUIRED = (ENGINE_HASH, QUANTISATION)
_PARAMETER_NAMES = ParameterNames(CLIENT_HEADERS, (CANARY_TOKEN,))
# W3C Trace Context: version (not ff), trace id and parent id (not all zeros), flags.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")


class HeaderFault(NamedTuple):
    """One rule that the headers break, or another parameter beside them."""

    code: Code
    detail: str


class GivenKey(NamedTuple):
    """What one header gives as an API key."""

    header: str
    digest: bytes | None
    """None: it has not the form of a key; another system's credentials, maybe."""


class HeaderCheck(NamedTuple):
    """The sender named by the valid headers, and what is wrong with the others.

    `sender` is known for a rejected request too, so that ledger and log can name the client. Its fields are empty where
    the client sent no header, `trace_id` also where it was malformed.
    """

    sender: RowRecord
    faults: tuple[HeaderFault, ...] = ()
    keys: tuple[GivenKey, ...] = ()

    @property
    def digest(self) -> bytes | None:
        """The digest of the first API key."""
        return next((key.digest for key in self.keys if key.digest is not None), None)

    def error(self) -> InvalidRequest | None:
        """A new error that lists every fault, with the code of the first; None if the headers are valid."""
        if not self.faults:
            return None
        first, *rest = self.faults
        return InvalidRequest(
            first.code, "; ".join([first.detail, *(f"{fault.code.value}: {fault.detail}" for fault in rest)])
        )


class HeaderGate:
    """Compares a request's headers with the one engine this server runs."""

    def __init__(self, engine_hash: str, quantisation: str, canary_token: str = "") -> None:
        self._canary_token = canary_token
        self._expected = {
            ENGINE_HASH: (engine_hash, Code.ENGINE_HASH_MISMATCH),
            QUANTISATION: (quantisation, Code.QUANTISATION_MISMATCH),
        }
        # Clients repeat their headers.
        self._check_cached = lru_cache(MAX_CACHED_RESULTS)(self._check)

    def check(self, parameters_json: str) -> HeaderCheck:
        """Check the headers in a request's parameters (the JSON text that `InferenceRequest.parameters()` returns)."""
        is_short = len(parameters_json) <= MAX_CACHED_CHARS
        return self._check_cached(parameters_json) if is_short else self._check(parameters_json)

    def _check(self, parameters_json: str) -> HeaderCheck:
        values: dict[str, str] = {}
        pairs = _pairs(parameters_json)
        faults = [*_read_values(pairs, values)]
        faults += self._compare(values, {fault.detail.split(" ", 1)[0] for fault in faults})
        faults += self._check_canary(values)
        faults += [HeaderFault(Code.INVALID_INPUT, detail) for detail in _PARAMETER_NAMES.unknown(k for k, _ in pairs)]
        is_canary = not faults and CANARY_TOKEN in values
        given_tenant = "" if values.get(TENANT) == CANARY_TENANT else values.get(TENANT, "")
        sender = RowRecord(
            request_id=values.get(REQUEST_ID, ""),
            tenant=CANARY_TENANT if is_canary else given_tenant,
            trace_id=_trace_id(pairs),
            is_canary=is_canary,
        )
        return HeaderCheck(sender, tuple(dict.fromkeys(faults)), tuple(read_keys(pairs)))

    def _check_canary(self, values: dict[str, str]) -> list[HeaderFault]:
        token = values.get(CANARY_TOKEN)
        if token is not None:
            is_valid = self._canary_token and hmac.compare_digest(token, self._canary_token)
            return [] if is_valid else [HeaderFault(Code.INVALID_HEADER, f"{CANARY_TOKEN} is not this server's token")]
        if values.get(TENANT) == CANARY_TENANT:
            return [
                HeaderFault(Code.INVALID_HEADER, f"{TENANT} {CANARY_TENANT} is reserved for the server's own requests")
            ]
        return []

    def _compare(self, values: dict[str, str], invalid_names: set[str]) -> list[HeaderFault]:
        faults = []
        for name in _REQUIRED:
            expected, mismatch = self._expected[name]
            given = values.get(name)
            if given is None:
                if name not in invalid_names:
                    faults.append(HeaderFault(Code.MISSING_HEADER, f"{name} is required, none was given"))
            elif given != expected:
                faults.append(HeaderFault(mismatch, f"{name} is {given}, this server runs {expected}"))
        return faults


def _pairs(parameters_json: str) -> list[tuple[str, object]]:
    """The members in order, duplicates included. Triton's parameters have no nested objects."""
    pairs = json.loads(parameters_json, object_pairs_hook=list) if parameters_json else []
    return pairs if isinstance(pairs, list) else []


def _read_values(pairs: Iterable[tuple[str, object]], values: dict[str, str]) -> Iterable[HeaderFault]:
    """Fill `values` by canonical header name and yield the faults of single headers."""
    seen: set[str] = set()
    for key, value in pairs:
        name = _BY_LOWER.get(key.lower())
        if name is None:
            continue
        if name in seen:
            values.pop(name, None)
            yield HeaderFault(Code.INVALID_HEADER, f"{name} was given more than once, limit 1")
            continue
        seen.add(name)
        fault = _value_fault(name, value)
        if fault is None:
            values[name] = str(value)
        else:
            yield fault


def read_keys(pairs: Iterable[tuple[str, object]]) -> Iterable[GivenKey]:
    """What the headers in `pairs` give as API keys; `Authorization` of another scheme gives none."""
    for key, value in pairs:
        if key.lower() not in _KEY_HEADERS_BY_LOWER:
            continue
        text = value if isinstance(value, str) else ""
        if key.lower() == AUTHORIZATION.lower():
            match = _BEARER.fullmatch(text)
            if not match:  # another scheme
                continue
            text = match[1]
        yield GivenKey(_KEY_HEADERS_BY_LOWER[key.lower()], digest_of(text) if is_key(text) else None)


def _trace_id(pairs: Iterable[tuple[str, object]]) -> str:
    """The trace id of the only `traceparent`; W3C Trace Context says to ignore a malformed one."""
    given = [value for key, value in pairs if key.lower() == TRACEPARENT]
    match = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 and isinstance(given[0], str) else None
    return match[1] if match else ""


def loggable(text: str) -> str:
    """A client's id if it may be written to logs, the ledger and alerts (short printable ASCII, no key), else empty."""
    is_loggable = len(text) <= MAX_HEADER_CHARS and text.isascii() and text.isprintable() and not contains_key(text)
    return text if is_loggable else ""


def _value_fault(name: str, value: object) -> HeaderFault | None:
    if not isinstance(value, str):
        return HeaderFault(Code.INVALID_HEADER, f"{name} has type {type(value).__name__}, a string is required")
    if not 1 <= len(value) <= MAX_HEADER_CHARS:
        return HeaderFault(Code.INVALID_HEADER, f"{name} has {len(value)} characters, allowed 1 to {MAX_HEADER_CHARS}")
    if not (value.isascii() and value.isprintable()):
        return HeaderFault(Code.INVALID_HEADER, f"{name} has characters that are not printable ASCII")
    if contains_key(value):
        return HeaderFault(
            Code.INVALID_HEADER, f"{name} holds an API key, which belongs into {AUTHORIZATION} or {API_KEY}"
        )
    return None
