"""Errors for guides that break a limit or are no guides."""

from __future__ import annotations

from llm_policy.errors import Code, InvalidRequest


def too_complex(what: str, given: int, limit: int) -> InvalidRequest:
    """The refusal of a guide that is over a limit."""
    return InvalidRequest(Code.SCHEMA_TOO_COMPLEX, f"{what} is {given}, limit {limit}")


def invalid(rule: str) -> InvalidRequest:
    """The refusal of a guide that is no guide. `rule` never quotes the client's text."""
    return InvalidRequest(Code.SCHEMA_INVALID, rule)


def check_limit(what: str, given: int, limit: int) -> None:
    """Raise `schema_too_complex` when `given` is over `limit`."""
    if given > limit:
        raise too_complex(what, given, limit)
