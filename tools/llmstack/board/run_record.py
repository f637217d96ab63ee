"""The record of one run: its status, results, rows and failed rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from llm_policy.release.release import Release
from llmstack.release.coverage import find_uncovered
from llmstack.release.evidence import MISSING, PASSED, STALE, read_evidence

MAX_ROWS = 500
INCOMPLETE = "incomplete"  # passed, but does not cover the whole release
_MAX_BYTES = 64 << 20
# The keys of the rows, and of a row's faults, in the records of `llmstack warmup` and `llmstack smoke`.
_ROWS, _FAULTS = ("rows", "results"), ("fault", "faults")


class RunRecord(NamedTuple):
    """A record. `sha256` hashes the file, empty without one; `lacking` lists the parts that the run does not cover."""

    kind: str
    status: str
    results: dict[str, Any]
    rows: list[dict[str, Any]] = []  # noqa: RUF012 - a NamedTuple's default, never changed
    sha256: str = ""
    lacking: list[str] = []  # noqa: RUF012 - the same

    @property
    def is_passed(self) -> bool:
        """Whether the run passed on exactly this engine and manifest and covers the release."""
        return self.status == PASSED

    @property
    def is_stale(self) -> bool:
        """Whether the record belongs to another engine or manifest."""
        return self.status == STALE

    @property
    def faulty_rows(self) -> list[dict[str, Any]]:
        """The rows with a fault."""
        return [row for row in self.rows if any(row.get(name) for name in _FAULTS)]


def read_run(release: Release, kind: str) -> RunRecord:
    """The record of one kind of run in the release's directory."""
    evidence = read_evidence(release, kind)
    if evidence.status == MISSING:
        return RunRecord(kind, MISSING, {})
    try:
        with (release.directory / f"{kind}.json").open("rb") as file:
            text = file.read(_MAX_BYTES)
        rows = _rows(orjson.loads(text))
    except (OSError, orjson.JSONDecodeError):  # deleted or replaced meanwhile
        return RunRecord(kind, MISSING, {})
    lacking = find_uncovered(release, kind, evidence.record) if evidence.status == PASSED else []
    return RunRecord(kind, INCOMPLETE if lacking else evidence.status, evidence.results, rows, _sha256(text), lacking)


def evidence_hash(runs: Iterable[RunRecord]) -> str:
    """A hash over all records. It shows whether the evidence changed after a sign-off."""
    return "sha256:" + _sha256("".join(f"{run.kind} {run.sha256}\n" for run in runs).encode())


def _rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[Any] = next((record[name] for name in _ROWS if isinstance(record.get(name), list)), [])
    return [row for row in found if isinstance(row, dict)]


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
