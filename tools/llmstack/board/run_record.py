"""One run's record as a reviewer reads it: the verdict, the figures, every row, and the rows that failed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from llm_policy.release.release import Release
from llmstack.release.coverage import not_covered
from llmstack.release.evidence import MISSING, PASSED, STALE, read_evidence

MAX_ROWS = 500
INCOMPLETE = "incomplete"  # passed, but of a part of the release only
_MAX_BYTES = 64 << 20
# What `llmstack warmup` and `llmstack smoke` call their rows, and a row its faults.
_ROWS, _FAULTS = ("rows", "results"), ("fault", "faults")


class RunRecord(NamedTuple):
    """A record. `sha256` is of the file's bytes, empty where there is none; `lacking` is what it should cover too."""

    kind: str
    verdict: str
    figures: dict[str, Any]
    rows: list[dict[str, Any]] = []  # noqa: RUF012 - a NamedTuple's default, never changed
    sha256: str = ""
    lacking: list[str] = []  # noqa: RUF012 - the same

    @property
    def is_passed(self) -> bool:
        """Whether it passed on exactly this engine and manifest."""
        return self.verdict == PASSED

    @property
    def is_stale(self) -> bool:
        """Whether it is of another engine or manifest."""
        return self.verdict == STALE

    @property
    def faulty_rows(self) -> list[dict[str, Any]]:
        """The rows with a fault."""
        return [row for row in self.rows if any(row.get(name) for name in _FAULTS)]


def read_run(release: Release, kind: str) -> RunRecord:
    """The record of one kind that lies beside a release."""
    evidence = read_evidence(release, kind)
    if evidence.verdict == MISSING:
        return RunRecord(kind, MISSING, {})
    try:
        with (release.directory / f"{kind}.json").open("rb") as opened:
            text = opened.read(_MAX_BYTES)
        rows = _rows(orjson.loads(text))
    except (OSError, orjson.JSONDecodeError):  # gone a moment ago
        return RunRecord(kind, MISSING, {})
    lacking = not_covered(release, kind, evidence.record) if evidence.verdict == PASSED else []
    return RunRecord(kind, INCOMPLETE if lacking else evidence.verdict, evidence.figures, rows, _sha256(text), lacking)


def evidence_hash(runs: Iterable[RunRecord]) -> str:
    """What tells the evidence that somebody looked at from that of a later run."""
    return "sha256:" + _sha256("".join(f"{run.kind} {run.sha256}\n" for run in runs).encode())


def _rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[Any] = next((record[name] for name in _ROWS if isinstance(record.get(name), list)), [])
    return [row for row in found if isinstance(row, dict)]


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
