"""What one check found."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class CheckStatus(str, Enum):
    """How bad it is. Only `fail` keeps the stack from serving."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "not applicable"


class CheckResult(NamedTuple):
    """One line of the report; `next_step` says what to do about it."""

    check: str
    verdict: CheckStatus
    text: str
    next_step: str = ""
