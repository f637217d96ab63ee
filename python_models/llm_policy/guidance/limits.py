"""Errors for invalid guides and for guides over a limit."""

from __future__ import annotations

from llm_policy.errors import Code, InvalidRequest


def too_complex(what: str, given: int, limit: int) -> InvalidRequest:
    """The error for a guide over a limit."""
    return InvalidRequest(Code.SCHEMA_TOO_COMPLEX, f"{what} is {given}, limit {limit}")


def invalid(rule: str) -> InvalidRequest:
    """The error for an invalid guide. `rule` must not quote the client's text."""
    return InvalidRequest(Code.SCHEMA_INVALID, rule)


def check_limit(what: str, given: int, limit: int) -> None:
    """Raise `schema_too_complex` if `given` is over `limit`."""
    if given > limit:
        raise too_complex(what, given, limit)
