"""The header gate: nobody is served by an engine that they did not name.

Triton forwards matching HTTP headers and gRPC metadata as request parameters, and members of a `/generate` body
that are no tensor become parameters too. HTTP keeps the spelling `X-Engine-Hash`, gRPC lower-cases it, and a header
sent twice arrives twice: names are compared without case, and twice is a fault (RFC 9110 5.3 allows no list here).
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
# The parent's own requests. Only who shows the token may bear the name.
CANARY_TENANT = "llmstack-canary"
MAX_HEADER_CHARS = 128
MAX_KEPT_VERDICTS = 256
MAX_KEPT_CHARS = 1_024

_BY_LOWER = {name.lower(): name for name in (ENGINE_HASH, QUANTISATION, TENANT, REQUEST_ID, CANARY_TOKEN)}
_REQUIRED = (ENGINE_HASH, QUANTISATION)
# W3C Trace Context: version (not ff), trace id and parent id (not all zeros), flags.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")


class Headers(NamedTuple):
    """What the gate lets through; a text is empty when the client sent none, `trace_id` when it sent no good one."""

    tenant: str
    request_id: str
    is_canary: bool = False
    trace_id: str = ""


class HeaderRefusal(InvalidRequest):
    """A refusal with `headers`: those that are good all the same, to know whose request it was."""

    def __init__(self, code: Code, detail: str, headers: Headers) -> None:
        super().__init__(code, detail)
        self.headers = headers


class _Fault(NamedTuple):
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
        # Clients repeat their headers; a refusal raises and is not kept.
        self._check_repeated = lru_cache(MAX_KEPT_VERDICTS)(self._check)

    def check(self, parameters_json: str) -> Headers:
        """The headers in a request's parameters (the JSON text that `InferenceRequest.parameters()` returns).

        Raises:
            HeaderRefusal: with every header fault of the request in one text; the first one's code leads.
        """
        is_short = len(parameters_json) <= MAX_KEPT_CHARS
        return self._check_repeated(parameters_json) if is_short else self._check(parameters_json)

    def _check(self, parameters_json: str) -> Headers:
        values: dict[str, str] = {}
        pairs = _pairs(parameters_json)
        faults = [*_read(pairs, values)]
        faults += self._compare(values, {fault.detail.split(" ", 1)[0] for fault in faults})
        faults += self._check_canary(values)
        tenant, request_id, trace_id = values.get(TENANT, ""), values.get(REQUEST_ID, ""), _trace_id(pairs)
        if faults:
            known = Headers("" if tenant == CANARY_TENANT else tenant, request_id, trace_id=trace_id)
            raise _refusal(faults, known)
        is_canary = CANARY_TOKEN in values
        return Headers(CANARY_TENANT if is_canary else tenant, request_id, is_canary, trace_id)

    def _check_canary(self, values: dict[str, str]) -> list[_Fault]:
        token = values.get(CANARY_TOKEN)
        if token is not None:
            is_right = self._canary_token and hmac.compare_digest(token, self._canary_token)
            return [] if is_right else [_Fault(Code.INVALID_HEADER, f"{CANARY_TOKEN} is not this server's")]
        if values.get(TENANT) == CANARY_TENANT:
            return [_Fault(Code.INVALID_HEADER, f"{TENANT} {CANARY_TENANT} is kept for the server's own requests")]
        return []

    def _compare(self, values: dict[str, str], faulty: set[str]) -> list[_Fault]:
        faults = []
        for name in _REQUIRED:
            expected, mismatch = self._expected[name]
            given = values.get(name)
            if given is None:
                if name not in faulty:
                    faults.append(_Fault(Code.MISSING_HEADER, f"{name} is required, none was given"))
            elif given != expected:
                faults.append(_Fault(mismatch, f"{name} is {given}, this server runs {expected}"))
        return faults


def _pairs(parameters_json: str) -> list[tuple[str, object]]:
    """Members in order, duplicates kept; nested objects can't occur in Triton's parameters."""
    pairs = json.loads(parameters_json, object_pairs_hook=list) if parameters_json else []
    return pairs if isinstance(pairs, list) else []


def _read(pairs: Iterable[tuple[str, object]], values: dict[str, str]) -> Iterable[_Fault]:
    """Fill `values` by canonical name and yield what is wrong with single headers."""
    seen: set[str] = set()
    for key, value in pairs:
        name = _BY_LOWER.get(key.lower())
        if name is None:
            continue
        if name in seen:
            values.pop(name, None)
            yield _Fault(Code.INVALID_HEADER, f"{name} was given more than once, limit 1")
            continue
        seen.add(name)
        fault = _value_fault(name, value)
        if fault is None:
            values[name] = str(value)
        else:
            yield fault


def _trace_id(pairs: Iterable[tuple[str, object]]) -> str:
    """The trace id of the one good `traceparent`; as the standard has it, a bad one counts as none."""
    given = [value for key, value in pairs if key.lower() == TRACEPARENT]
    match = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 and isinstance(given[0], str) else None
    return match[1] if match else ""


def is_presentable(text: str) -> bool:
    """Whether an id from a client may stand in logs, the ledger and alerts."""
    return len(text) <= MAX_HEADER_CHARS and text.isascii() and text.isprintable()


def _value_fault(name: str, value: object) -> _Fault | None:
    if not isinstance(value, str):
        return _Fault(Code.INVALID_HEADER, f"{name} is a {type(value).__name__}, a string is required")
    if not 1 <= len(value) <= MAX_HEADER_CHARS:
        return _Fault(Code.INVALID_HEADER, f"{name} has {len(value)} characters, allowed 1 to {MAX_HEADER_CHARS}")
    if not (value.isascii() and value.isprintable()):
        return _Fault(Code.INVALID_HEADER, f"{name} has characters that are no printable ASCII")
    return None


def _refusal(faults: list[_Fault], known: Headers) -> HeaderRefusal:
    first, *rest = dict.fromkeys(faults)
    text = "; ".join([first.detail, *(f"{f.code.value}: {f.detail}" for f in rest)])
    return HeaderRefusal(first.code, text, known)
