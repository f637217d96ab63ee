"""The result of one check."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple


class CheckStatus(str, Enum):
    """The outcome of a check. Only `fail` keeps the stack from serving."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIPPED = "not applicable"


class CheckResult(NamedTuple):
    """One line of the report; `next_step` says how to fix a failure or a warning."""

    check: str
    status: CheckStatus
    text: str
    next_step: str = ""

    def to_json(self) -> dict[str, str]:
        """The members of `llmstack doctor --json`, where the status is called `verdict`."""
        return {"check": self.check, "verdict": self.status.value, "text": self.text, "next_step": self.next_step}


def has_failure(results: Iterable[CheckResult]) -> bool:
    """Whether one of the results keeps the stack from serving."""
    return any(result.status is CheckStatus.FAIL for result in results)
