"""The keywords that a grammar does not enforce, or enforces too strictly: one finding each."""

from __future__ import annotations

from dataclasses import dataclass

MAX_FINDINGS = 1_000


@dataclass(frozen=True, order=True)
class KeywordFinding:
    """One keyword of one subschema. The pointer contains the client's names and must not appear in error texts."""

    pointer: str
    keyword: str
    reason: str


class KeywordReport:
    """Collects findings without duplicates."""

    def __init__(self) -> None:
        self._findings: dict[KeywordFinding, None] = {}

    def add(self, pointer: str, keyword: str, reason: str) -> None:
        """Add a finding on `keyword` at `pointer`; dropped over `MAX_FINDINGS`."""
        if len(self._findings) < MAX_FINDINGS:
            self._findings[KeywordFinding(pointer, keyword, reason)] = None

    def findings(self) -> tuple[KeywordFinding, ...]:
        """All findings, sorted."""
        return tuple(sorted(self._findings))
