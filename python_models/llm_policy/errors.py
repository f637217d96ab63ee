"""Every error with which the policy can reject a request.

PolicyError
├── InvalidRequest     the client must change something (Triton INVALID_ARG, HTTP 400)
├── Unavailable        the same request may succeed later (Triton UNAVAILABLE, HTTP 503)
├── LedgerUnavailable  the ledger can't be written (`steps/ledger_writer.py`; Triton INTERNAL, HTTP 500)
└── InternalFault      a bug; the client gets a reference number (Triton INTERNAL, HTTP 500)

Each rule raises its own error; only `triton/error_responses.py` turns it into a Triton error. The text is
`<code>: <rule, limit, given value>` and never quotes a prompt, a schema or a path. Codes are stable and clients match
on them, because Triton has no status of its own for a budget or a guide.
"""

from __future__ import annotations

from enum import Enum


class Code(str, Enum):
    """The stable code at the beginning of every error's text."""

    MISSING_HEADER = "missing_header"
    INVALID_HEADER = "invalid_header"
    ENGINE_HASH_MISMATCH = "engine_hash_mismatch"
    QUANTISATION_MISMATCH = "quantisation_mismatch"
    INVALID_INPUT = "invalid_input"
    UNKNOWN_TASK = "unknown_task"
    UNKNOWN_SCHEMA = "unknown_schema"
    UNKNOWN_GUIDE_TYPE = "unknown_guide_type"
    SCHEMA_INVALID = "schema_invalid"
    SCHEMA_TOO_COMPLEX = "schema_too_complex"
    TOKEN_BUDGET_OVERRUN = "token_budget_overrun"  # noqa: S105 - not a password
    COST_BUDGET_OVERRUN = "cost_budget_overrun"
    OVERLOADED = "overloaded"
    GUIDANCE_UNAVAILABLE = "guidance_unavailable"
    DRAINING = "draining"
    INTERNAL = "internal"


class PolicyError(Exception):
    """A declared error: a stable `code`, and a `detail` with rule, limit and given value."""

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(f"{code.value}: {detail}")
        self.code = code
        self.detail = detail


class InvalidRequest(PolicyError):
    """The client must change the request."""


class Unavailable(PolicyError):
    """The same request may succeed later."""


class InternalFault(PolicyError):
    """An unexpected exception. `detail` has only a reference number, which the server's log has too."""

    def __init__(self, reference: str) -> None:
        super().__init__(Code.INTERNAL, f"unexpected error, reference {reference}")
