"""Releases as the board shows them, with their evidence."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from llm_policy.prompt_runtime import PromptRuntimeManager
from llm_policy.release.manifest import ManifestError
from llm_policy.release.release import Release, ReleaseError
from llmstack.board.run_record import RunRecord, evidence_hash, read_run
from llmstack.board.sign_offs import ReleaseHashes
from llmstack.release.build_manifest import BuildManifest, BuildManifestError, read_build_manifest
from llmstack.release.change import ReleaseRef
from llmstack.release.evidence import KINDS
from llmstack.release.manifest_file import Alignment, read_alignments
from llmstack.release.store import ReleaseStore


class Candidate(NamedTuple):
    """One release. `problem` says why it can't be read; the fields after it are empty then."""

    name: str
    is_current: bool
    problem: str = ""
    summary: Mapping[str, Any] = {}
    manifest: Mapping[str, Any] = {}
    build: BuildManifest | None = None
    build_problem: str = ""
    runs: tuple[RunRecord, ...] = ()
    alignments: tuple[Alignment, ...] = ()
    directory: str = ""

    @property
    def ref(self) -> ReleaseRef:
        """The release as changes name it, without its build."""
        return ReleaseRef(self.directory, *self.hashes)

    @property
    def hashes(self) -> ReleaseHashes:
        """The hashes that a reviewer signs off; empty when the release can't be read."""
        return ReleaseHashes(str(self.summary.get("engine_hash", "")), str(self.summary.get("manifest_hash", "")))

    @property
    def evidence_hash(self) -> str:
        """The hash of all run records."""
        return evidence_hash(self.runs)


def list_candidates(store: ReleaseStore) -> list[Candidate]:
    """Every release in the store, the one in service first, then by name."""
    candidates = [_read(store, name) for name in store.names()]
    return sorted(candidates, key=lambda candidate: (not candidate.is_current, candidate.name))


def find_candidate(store: ReleaseStore, name: str) -> Candidate | None:
    """The release named exactly `name`."""
    return _read(store, name) if name in store.names() else None


def read_in_service(store: ReleaseStore) -> Candidate | None:
    """The release in service, which need not be in the store; None when there is none."""
    directory = store.in_service()
    return None if directory is None else _read_directory(directory, directory.name, is_current=True)


def model_names(store: ReleaseStore) -> dict[str, str]:
    """The models of the releases that can be read, by the hash of their engine."""
    names = {}
    for name in store.names():
        with suppress(ReleaseError, ManifestError, OSError):
            engine = Release.open(store.releases_dir / name).manifest.engine
            names[engine.hash] = engine.model
    return names


def _read(store: ReleaseStore, name: str) -> Candidate:
    directory = store.releases_dir / name
    return _read_directory(directory, name, is_current=store.in_service() == directory.resolve())


def _read_directory(directory: Path, name: str, *, is_current: bool) -> Candidate:
    """One release. Its files are not hashed; `llmstack release promote` does that."""
    try:
        release = Release.open(directory)
        summary = PromptRuntimeManager(release).summary()
    except (ReleaseError, ManifestError, OSError) as error:
        return Candidate(name, is_current, problem=str(error), directory=str(directory.resolve()))
    build, build_problem = _read_build(directory)
    return Candidate(
        name,
        is_current,
        summary=summary,
        manifest=release.manifest.model_dump(exclude_none=True),
        build=build,
        build_problem=build_problem,
        runs=tuple(read_run(release, kind) for kind in KINDS),
        alignments=tuple(read_alignments(release)),
        directory=str(release.directory),
    )


def _read_build(directory: Path) -> tuple[BuildManifest | None, str]:
    try:
        return read_build_manifest(directory), ""
    except BuildManifestError as error:
        return None, str(error)
