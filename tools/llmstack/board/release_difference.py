"""What differs between a release and the one in service: manifest, registered schemas and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from llmstack.board.candidates import Candidate
from llmstack.board.template_filters import flatten
from llmstack.release.build_manifest import BuildManifest

_ONLY_HERE, _ONLY_THERE = "only in this release", "only in the one in service"
_DIFFERS = "differs"
# The hashes of these files are values of the manifest, or their contents are compared by key.
_COMPARED_BY_KEY = "manifest.json"


class ChangedValue(NamedTuple):
    """One key of the manifest, or the content of one schema; None on the side that lacks it."""

    key: str
    in_service: Any
    here: Any


class ChangedFile(NamedTuple):
    """One file; sizes in bytes, None on the side that lacks it."""

    path: str
    difference: str
    in_service_bytes: int | None
    here_bytes: int | None


class ReleaseDifference(NamedTuple):
    """How a release differs from `in_service`, a release's name; `files` is None without both build manifests."""

    in_service: str
    values: tuple[ChangedValue, ...]
    files: tuple[ChangedFile, ...] | None

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs, as far as both releases list their files."""
        return not self.values and not self.files


def compare(release: Candidate, in_service: Candidate) -> ReleaseDifference:
    """The differences of `release` from `in_service`; neither has a problem."""
    here, there = _values(release), _values(in_service)
    changed = [key for key in (*there, *(here.keys() - there.keys())) if here.get(key) != there.get(key)]
    files = _files(release.build, in_service.build) if release.build and in_service.build else None
    return ReleaseDifference(
        in_service.name, tuple(ChangedValue(key, there.get(key), here.get(key)) for key in changed), files
    )


def _values(candidate: Candidate) -> Mapping[str, Any]:
    """The manifest's values by dotted key, and the hashes of the schemas."""
    schemas = {f"schema hashes.{name}": digest for name, digest in candidate.summary["schemas"].items()}
    return {**dict(flatten(candidate.manifest)), **schemas}


def _files(release: BuildManifest, in_service: BuildManifest) -> tuple[ChangedFile, ...]:
    here, there = ({file.path: file for file in build.files} for build in (release, in_service))
    changed = []
    for path in sorted(here.keys() | there.keys()):
        ours, theirs = here.get(path), there.get(path)
        if ours == theirs or path == _COMPARED_BY_KEY:
            continue
        difference = _ONLY_THERE if ours is None else _ONLY_HERE if theirs is None else _DIFFERS
        sizes = (theirs.size_bytes if theirs else None, ours.size_bytes if ours else None)
        changed.append(ChangedFile(path, difference, *sizes))
    return tuple(changed)
