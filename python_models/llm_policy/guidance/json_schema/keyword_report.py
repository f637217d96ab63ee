"""What a grammar does not hold the model to: one finding for each keyword that was left out, never silence."""

from __future__ import annotations

from dataclasses import dataclass

MAX_FINDINGS = 1_000


@dataclass(frozen=True, order=True)
class KeywordFinding:
    """One keyword of one subschema. The pointer holds the client's names: for operators, not for error texts."""

    pointer: str
    keyword: str
    reason: str


class KeywordReport:
    """Collects findings, each once."""

    def __init__(self) -> None:
        self._findings: dict[KeywordFinding, None] = {}

    def add(self, pointer: str, keyword: str, reason: str) -> None:
        """Note that `keyword` at `pointer` is not followed, or only in part."""
        if len(self._findings) < MAX_FINDINGS:
            self._findings[KeywordFinding(pointer, keyword, reason)] = None

    def findings(self) -> tuple[KeywordFinding, ...]:
        """All of them, sorted."""
        return tuple(sorted(self._findings))
