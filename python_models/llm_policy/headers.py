"""The header gate: nobody is served by an engine that they did not name.

Triton forwards matching HTTP headers and gRPC metadata as request parameters, and members of a `/generate` body
that are no tensor become parameters too. HTTP keeps the spelling `X-Engine-Hash`, gRPC lower-cases it, and a header
sent twice arrives twice: names are compared without case, and twice is a fault (RFC 9110 5.3 allows no list here).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from llm_policy.errors import Code, InvalidRequest

ENGINE_HASH = "X-Engine-Hash"
QUANTISATION = "X-Quantisation"
TENANT = "X-Tenant"
REQUEST_ID = "X-Request-Id"
MAX_HEADER_CHARS = 128
MAX_KEPT_VERDICTS = 256
MAX_KEPT_CHARS = 1_024

_BY_LOWER = {name.lower(): name for name in (ENGINE_HASH, QUANTISATION, TENANT, REQUEST_ID)}
_REQUIRED = (ENGINE_HASH, QUANTISATION)


class Headers(NamedTuple):
    """What the gate lets through; `tenant` and `request_id` are empty when the client sent none."""

    tenant: str
    request_id: str


class _Fault(NamedTuple):
    code: Code
    detail: str


class HeaderGate:
    """Compares a request's headers with the one engine this server runs."""

    def __init__(self, engine_hash: str, quantisation: str) -> None:
        self._expected = {
            ENGINE_HASH: (engine_hash, Code.ENGINE_HASH_MISMATCH),
            QUANTISATION: (quantisation, Code.QUANTISATION_MISMATCH),
        }
        # Clients repeat their headers; a refusal raises and is not kept.
        self._check_repeated = lru_cache(MAX_KEPT_VERDICTS)(self._check)

    def check(self, parameters_json: str) -> Headers:
        """The headers in a request's parameters (the JSON text that `InferenceRequest.parameters()` returns).

        Raises:
            InvalidRequest: with every header fault of the request in one text; the first one's code leads.
        """
        is_short = len(parameters_json) <= MAX_KEPT_CHARS
        return self._check_repeated(parameters_json) if is_short else self._check(parameters_json)

    def _check(self, parameters_json: str) -> Headers:
        values: dict[str, str] = {}
        faults = [*_read(_pairs(parameters_json), values)]
        faults += self._compare(values, {fault.detail.split(" ", 1)[0] for fault in faults})
        if faults:
            raise _refusal(faults)
        return Headers(values.get(TENANT, ""), values.get(REQUEST_ID, ""))

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


def _value_fault(name: str, value: object) -> _Fault | None:
    if not isinstance(value, str):
        return _Fault(Code.INVALID_HEADER, f"{name} is a {type(value).__name__}, a string is required")
    if not 1 <= len(value) <= MAX_HEADER_CHARS:
        return _Fault(Code.INVALID_HEADER, f"{name} has {len(value)} characters, allowed 1 to {MAX_HEADER_CHARS}")
    if not (value.isascii() and value.isprintable()):
        return _Fault(Code.INVALID_HEADER, f"{name} has characters that are no printable ASCII")
    return None


def _refusal(faults: list[_Fault]) -> InvalidRequest:
    first, *rest = dict.fromkeys(faults)
    return InvalidRequest(first.code, "; ".join([first.detail, *(f"{f.code.value}: {f.detail}" for f in rest)]))
