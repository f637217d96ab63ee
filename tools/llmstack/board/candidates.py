"""Releases as the board shows them: what they promise, and the evidence that lies beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llm_policy.manifest import ManifestError
from llm_policy.prompt_runtime import PromptRuntimeManager
from llm_policy.release import Release, ReleaseError
from llmstack.release.alignment import Alignment, read_alignments
from llmstack.release.evidence import SMOKE, WARMUP, Evidence, read_evidence


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
    directories = [path for path in releases_dir.glob("[!.]*") if path.is_dir()]
    candidates = [read_candidate(path, is_current=path.resolve() == in_service) for path in directories]
    return sorted(candidates, key=lambda candidate: (not candidate.is_current, candidate.name))


def read_candidate(directory: Path, *, is_current: bool = False) -> Candidate:
    """One release; its files are not hashed again, `release promote` does that."""
    try:
        release = Release.open(directory)
        summary = PromptRuntimeManager(release).summary()
    except (ReleaseError, ManifestError, OSError) as error:
        return Candidate(directory.name, is_current, problem=str(error))
    evidence = tuple(read_evidence(release, kind) for kind in (WARMUP, SMOKE))
    return Candidate(directory.name, is_current, "", summary, evidence, tuple(read_alignments(release)))
