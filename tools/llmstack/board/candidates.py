"""Releases as the board shows them: what they promise, and the evidence that lies beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from llm_policy.manifest import ManifestError
from llm_policy.prompt_runtime import PromptRuntimeManager
from llm_policy.release import Release, ReleaseError

MODULE6_DIRECTORY = "module6"
_MAX_EVIDENCE_BYTES = 8 << 20
MISSING, PASSED, FAILED, STALE = "missing", "passed", "failed", "of another engine or manifest"


class Evidence(NamedTuple):
    """One recorded run: its verdict for this release, and its plain figures."""

    name: str
    verdict: str
    figures: dict[str, Any]


class Alignment(NamedTuple):
    """One manifest of the evaluation side against ours; no differences is aligned."""

    file: str
    differences: list[str]


class Candidate(NamedTuple):
    """One release. `problem` says why it can't be read; all else is empty then."""

    name: str
    is_current: bool
    problem: str = ""
    summary: Mapping[str, Any] = {}
    evidence: tuple[Evidence, ...] = ()
    alignments: tuple[Alignment, ...] = ()

    @property
    def hashes(self) -> tuple[str, str]:
        """What a reviewer signs: the engine's hash and the manifest's."""
        return str(self.summary.get("engine_hash", "")), str(self.summary.get("manifest_hash", ""))


def list_candidates(releases_dir: Path, current: Path) -> list[Candidate]:
    """Every release under `releases_dir`, the one in service first, then by name."""
    in_service = current.resolve()
    directories = [path for path in releases_dir.iterdir() if path.is_dir()] if releases_dir.is_dir() else []
    candidates = [read_candidate(path, is_current=path.resolve() == in_service) for path in directories]
    return sorted(candidates, key=lambda candidate: (not candidate.is_current, candidate.name))


def read_candidate(directory: Path, *, is_current: bool = False) -> Candidate:
    """One release; its files are not hashed again, `release promote` does that."""
    try:
        runtime = PromptRuntimeManager(Release.open(directory))
        summary = runtime.summary()
    except (ReleaseError, ManifestError, OSError) as error:
        return Candidate(directory.name, is_current, problem=str(error))
    evidence = tuple(_evidence(directory / f"{name}.json", summary) for name in ("warmup", "smoke"))
    files = sorted((directory / MODULE6_DIRECTORY).glob("*.json"))
    return Candidate(
        directory.name, is_current, "", summary, evidence, tuple(_alignment(runtime, file) for file in files)
    )


def _alignment(runtime: PromptRuntimeManager, file: Path) -> Alignment:
    try:
        return Alignment(file.name, [str(difference) for difference in runtime.verify(file)])
    except (ManifestError, OSError) as error:
        return Alignment(file.name, [str(error)])


def _evidence(file: Path, summary: Mapping[str, Any]) -> Evidence:
    record = _read_record(file)
    if record is None:
        return Evidence(file.stem, MISSING, {})
    figures = {key: value for key, value in record.items() if isinstance(value, str | int | float | bool)}
    if any(record.get(key) != summary[key] for key in ("engine_hash", "manifest_hash")):
        return Evidence(file.stem, STALE, figures)
    return Evidence(file.stem, PASSED if record.get("passed") is True else FAILED, figures)


def _read_record(file: Path) -> dict[str, Any] | None:
    try:
        with file.open("rb") as opened:
            record = orjson.loads(opened.read(_MAX_EVIDENCE_BYTES))
    except (OSError, orjson.JSONDecodeError):
        return None
    return record if isinstance(record, dict) else None
