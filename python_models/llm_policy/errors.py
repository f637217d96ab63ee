"""Every error with which the policy can reject a request.

PolicyError
├── InvalidRequest         INVALID_ARG 400, final: the client must change the request
├── Unavailable            UNAVAILABLE 503, retryable: the same request may succeed later, or on another server
│   └── LedgerUnavailable  UNAVAILABLE 503, retryable: the ledger can't be written, so nothing is served
├── Cancelled              CANCELLED 499, final: the client of a stream cancelled it, or went away
└── InternalFault          INTERNAL 500, retryable: a bug; the client gets a reference number

Each rule raises its own error; only `triton/error_responses.py` turns it into a Triton error. The text is
`<code>: <rule, limit, given value>` and never quotes a prompt, a schema or a path. Codes are stable and clients match
on them, because Triton has no status of its own for a budget or a guide. Each code belongs to one class (`codes`),
which gives it its status and says whether a client may retry.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import ClassVar


class Code(str, Enum):
    """The stable code at the beginning of every error's text."""

    MISSING_HEADER = "missing_header"
    INVALID_HEADER = "invalid_header"
    ENGINE_HASH_MISMATCH = "engine_hash_mismatch"
    QUANTISATION_MISMATCH = "quantisation_mismatch"
    MISSING_API_KEY = "missing_api_key"
    INVALID_API_KEY = "invalid_api_key"
    TENANT_FORBIDDEN = "tenant_forbidden"
    INVALID_INPUT = "invalid_input"
    UNKNOWN_TASK = "unknown_task"
    UNKNOWN_SCHEMA = "unknown_schema"
    UNKNOWN_GUIDE_TYPE = "unknown_guide_type"
    SCHEMA_INVALID = "schema_invalid"
    SCHEMA_TOO_COMPLEX = "schema_too_complex"
    TOKEN_BUDGET_OVERRUN = "token_budget_overrun"  # noqa: S105 - not a password
    COST_BUDGET_OVERRUN = "cost_budget_overrun"
    TENANT_BUDGET_OVERRUN = "tenant_budget_overrun"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    GUIDANCE_UNAVAILABLE = "guidance_unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    DRAINING = "draining"
    CANCELLED = "cancelled"
    LEDGER_UNAVAILABLE = "ledger_unavailable"
    INTERNAL = "internal"


class Status(Enum):
    """A status of `pb_utils.TritonError` by its name there; the value is the HTTP status."""

    INVALID_ARG = 400
    UNAVAILABLE = 503
    INTERNAL = 500
    CANCELLED = 499


class PolicyError(Exception):
    """A declared error: a stable `code`, and a `detail` with rule, limit and given value."""

    codes: ClassVar[frozenset[Code]] = frozenset()
    status: ClassVar[Status]
    is_retryable: ClassVar[bool]

    def __init__(self, code: Code, detail: str) -> None:
        """Raises ValueError if `code` belongs to another class."""
        if code not in self.codes:
            raise ValueError(f"{code.value} is not a code of {type(self).__name__}")
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code.value}: {self.detail}"

    def in_row(self, number: int) -> PolicyError:
        """This error with the number of the row that has it."""
        return create_error(self.code, f"{self.detail} (row {number})")

    def with_prefix(self, prefix: str) -> PolicyError:
        """This error with `prefix` before its detail."""
        return create_error(self.code, f"{prefix}{self.detail}")


class InvalidRequest(PolicyError):
    """The client must change the request."""

    codes = frozenset(
        (
            *(Code.MISSING_HEADER, Code.INVALID_HEADER, Code.ENGINE_HASH_MISMATCH, Code.QUANTISATION_MISMATCH),
            *(Code.MISSING_API_KEY, Code.INVALID_API_KEY, Code.TENANT_FORBIDDEN, Code.TENANT_BUDGET_OVERRUN),
            *(Code.INVALID_INPUT, Code.UNKNOWN_TASK, Code.UNKNOWN_SCHEMA, Code.UNKNOWN_GUIDE_TYPE),
            *(Code.SCHEMA_INVALID, Code.SCHEMA_TOO_COMPLEX, Code.TOKEN_BUDGET_OVERRUN, Code.COST_BUDGET_OVERRUN),
        )
    )
    status = Status.INVALID_ARG
    is_retryable = False


class Unavailable(PolicyError):
    """The same request may succeed later, or on another server."""

    codes = frozenset(
        (
            *(Code.RATE_LIMITED, Code.OVERLOADED, Code.ENGINE_UNAVAILABLE, Code.GUIDANCE_UNAVAILABLE),
            *(Code.DEADLINE_EXCEEDED, Code.DRAINING),
        )
    )
    status = Status.UNAVAILABLE
    is_retryable = True


class LedgerUnavailable(Unavailable):
    """The ledger can't be written, so no request is served."""

    codes = frozenset((Code.LEDGER_UNAVAILABLE,))

    def __init__(self, cause: object) -> None:
        super().__init__(
            Code.LEDGER_UNAVAILABLE, f"the ledger can't be written ({cause}), so nothing is served; try again later"
        )


class Cancelled(PolicyError):
    """The client of a stream cancelled it, or went away; nobody reads this error."""

    codes = frozenset((Code.CANCELLED,))
    status = Status.CANCELLED
    is_retryable = False


class InternalFault(PolicyError):
    """An unexpected exception. `detail` has only a reference number, which the server's log has too."""

    codes = frozenset((Code.INTERNAL,))
    status = Status.INTERNAL
    is_retryable = True

    def __init__(self, reference: str) -> None:
        super().__init__(Code.INTERNAL, f"unexpected error, reference {reference}")


_TYPES: dict[Code, type[PolicyError]] = {
    code: error_type
    for error_type in (InvalidRequest, Unavailable, LedgerUnavailable, Cancelled, InternalFault)
    for code in error_type.codes
}


def create_error(code: Code, detail: str) -> PolicyError:
    """The error of the class that `code` belongs to, with exactly this detail."""
    error_type = _TYPES[code]
    error = error_type.__new__(error_type)
    PolicyError.__init__(error, code, detail)  # some classes build the detail from other arguments
    return error


def invalid_input(detail: str) -> InvalidRequest:
    """The error of an input with the wrong form or a value out of range."""
    return InvalidRequest(Code.INVALID_INPUT, detail)


_ERROR_TEXT = re.compile(r"(?:in ensemble '[^']*', )?([a-z_]+): ")
_CODES = {code.value: code for code in Code}


def find_code(text: str) -> Code | None:
    """The code of an error that a client received; None if the policy did not reject the request.

    An ensemble puts its name before the text of its models' errors.
    """
    match = _ERROR_TEXT.match(text)
    return _CODES.get(match[1]) if match else None
