"""Errors in OpenAI's form, and which of our codes gets which HTTP status.

Triton can't answer most of these statuses, so the code at the beginning of an error's text decides. SDKs retry 408,
409, 429 and every status from 500 on; `x-should-retry` tells them what may succeed.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, NamedTuple

from llm_policy.api_key import without_keys
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION


class Treatment(NamedTuple):
    """How a code is answered; `retry_after_s` is None for what a client must not retry."""

    status: int
    retry_after_s: int | None = None


_REQUEST = Treatment(HTTPStatus.BAD_REQUEST)
_AFTER_A_SECOND = Treatment(HTTPStatus.SERVICE_UNAVAILABLE, 1)
_AFTER_A_RESTART = Treatment(HTTPStatus.SERVICE_UNAVAILABLE, 5)
TREATMENTS = {
    **dict.fromkeys(("missing_header", "invalid_header", "engine_hash_mismatch", "quantisation_mismatch"), _REQUEST),
    **dict.fromkeys(("invalid_input", "unknown_task", "unknown_schema", "unknown_guide_type"), _REQUEST),
    **dict.fromkeys(("schema_invalid", "schema_too_complex", "cost_budget_overrun"), _REQUEST),
    **dict.fromkeys(("missing_api_key", "invalid_api_key"), Treatment(HTTPStatus.UNAUTHORIZED)),
    "tenant_forbidden": Treatment(HTTPStatus.FORBIDDEN),
    "token_budget_overrun": Treatment(HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    "tenant_budget_overrun": Treatment(HTTPStatus.TOO_MANY_REQUESTS),
    "rate_limited": Treatment(HTTPStatus.TOO_MANY_REQUESTS, 1),
    "overloaded": Treatment(HTTPStatus.TOO_MANY_REQUESTS, 1),
    "draining": _AFTER_A_SECOND,
    "deadline_exceeded": _AFTER_A_SECOND,
    "guidance_unavailable": _AFTER_A_SECOND,
    "engine_unavailable": _AFTER_A_RESTART,
    "ledger_unavailable": _AFTER_A_RESTART,
    "server_unavailable": _AFTER_A_RESTART,
    "cancelled": Treatment(499),
    "internal": Treatment(HTTPStatus.INTERNAL_SERVER_ERROR, 1),
    # Of the front end itself.
    "model_not_found": Treatment(HTTPStatus.NOT_FOUND),
    "not_found": Treatment(HTTPStatus.NOT_FOUND),
    "method_not_allowed": Treatment(HTTPStatus.METHOD_NOT_ALLOWED),
    "unsupported_parameter": _REQUEST,
    "body_too_large": Treatment(HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    "usage_unavailable": Treatment(HTTPStatus.SERVICE_UNAVAILABLE),
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_GUIDE_CODES = ("schema_invalid", "schema_too_complex", "unknown_guide_type")
_TRITON_TEXT = re.compile(r"(?:in ensemble '[^']*', )?([a-z_]+): (.*)", re.DOTALL)
_RETRY_AFTER = re.compile(r"\btry again in (\d+) s\b")
_FIRST_WORD = re.compile(r"([a-z_]+) (?:is|has) ")
_MISSING_HEADER = re.compile(r"([A-Za-z-]+) is required, none was given")
_NEXT_FAULT = "; missing_header: "
_EXAMPLE_VALUES = {ENGINE_HASH: "sha256:…", QUANTISATION: "w4a8"}


class ApiError(Exception):
    """One error of the API, whose texts hold no API key. `param` names the member of the request at fault.

    Raises:
        KeyError: `code` has no treatment.
    """

    def __init__(self, code: str, message: str, param: str | None = None, retry_after_s: int | None = None) -> None:
        message = without_keys(message)
        super().__init__(message)
        self.code, self.message = code, message
        self.param = None if param is None else without_keys(param)
        self.status, default_s = TREATMENTS[code]
        self.retry_after_s = default_s if retry_after_s is None else retry_after_s

    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """The headers that tell an SDK whether and when to send the request again."""
        if self.retry_after_s is None:
            return {"x-should-retry": "false"}
        return {"x-should-retry": "true", "retry-after": str(self.retry_after_s)}


def unsupported(param: str, reason: str) -> ApiError:
    """The error of a parameter that can't be honoured, and that must not be ignored."""
    return ApiError("unsupported_parameter", f"{param}: {reason}", param)


def invalid(param: str | None, reason: str) -> ApiError:
    """The error of a value that has the wrong form."""
    return ApiError("invalid_input", reason, param)


def policy_error(text: str, parameters: dict[str, str]) -> ApiError:
    """The error with which a model answered. `parameters` has the request's name of each input of the ensemble.

    A text without a known code comes from Triton itself, as while it replaces a model's process.
    """
    match = _TRITON_TEXT.fullmatch(text)
    if match is None or match[1] not in TREATMENTS:
        return ApiError("server_unavailable", f"the server answered: {text}")
    code, detail = match.groups()
    named = _FIRST_WORD.match(detail)
    if code == "missing_header":
        detail = _missing_headers(detail)
    param = parameters.get(named[1]) if named else None
    if param is None and code in _GUIDE_CODES:
        param = parameters.get("guided_decoding_guide")
    wait = _RETRY_AFTER.search(detail) if code == "rate_limited" else None
    return ApiError(code, detail, param, int(wait[1]) if wait is not None else None)


def _missing_headers(detail: str) -> str:
    """The text of `missing_header` for users of an SDK. Other faults that it lists stay as they are."""
    faults = [_MISSING_HEADER.fullmatch(fault) for fault in detail.split(_NEXT_FAULT)]
    names = [fault[1] for fault in faults if fault is not None]
    if len(names) < len(faults):
        return detail
    members = ", ".join(f'"{name}": "{_EXAMPLE_VALUES.get(name, "…")}"' for name in names)
    headers, verb = " and ".join(names), "is" if len(names) == 1 else "are"
    return (
        f"{headers} {verb} required, none was given; an SDK sends what it is given as "
        f"default_headers={{{members}}}, and `llmstack manifest summary` prints the values"
    )
