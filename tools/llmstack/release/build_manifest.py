"""build_manifest.json: every file of a release with its size and SHA-256, and how the release was built.

What is found out about a release later lies beside it and is none of its files: `EVIDENCE`, and the evaluation side's
manifests in `MODULE6`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm_policy.release.digest import file_digest
from llmstack.release.evidence import EVIDENCE_FILES

FILE_NAME = "build_manifest.json"
MODULE6 = "module6"
# What a killed command leaves of a record that it was about to replace is no file of the release either.
_RECORDS = (FILE_NAME, *EVIDENCE_FILES)
_BESIDE = {MODULE6, *_RECORDS, *(f"{name}.new" for name in _RECORDS)}


class BuildManifestError(ValueError):
    """There is no build manifest, or it can't be read; the text says which key is wrong."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BuiltFile(_Strict):
    """One file; `path` is relative to the release, with slashes."""

    path: str
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Build(_Strict):
    """How it was built, as far as its builder told."""

    command: str = ""
    source_commit: str = ""
    tensorrt_llm_version: str = ""


class BuildManifest(_Strict):
    """What a release consists of; `built_at` is UTC in ISO 8601."""

    release: str
    model: str
    quantisation: str
    engine_hash: str
    manifest_hash: str
    build: Build
    built_at: str
    files: list[BuiltFile] = Field(min_length=1)

    def to_bytes(self) -> bytes:
        """The bytes of the file."""
        return (json.dumps(self.model_dump(), indent=2, ensure_ascii=False) + "\n").encode()


def read_build_manifest(release_dir: Path) -> BuildManifest:
    """The build manifest of the release at `release_dir`.

    Raises:
        BuildManifestError: it is missing or wrong.
    """
    path = release_dir / FILE_NAME
    try:
        return BuildManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BuildManifestError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors(include_url=False))
        raise BuildManifestError(f"{path}: {'; '.join(faults)}") from None


def list_files(release_dir: Path, on_file: Callable[[str], None] = lambda path: None) -> list[BuiltFile]:
    """Every file of the release, hashed, by path.

    Raises:
        BuildManifestError: one is a link, which may lead out of the release, or no file at all.
        OSError: one can't be read.
    """
    found = []
    for path in _walk(release_dir):
        name = path.relative_to(release_dir).as_posix()
        if path.is_symlink() or not path.is_file():
            raise BuildManifestError(f"{name} is no plain file: a release holds its own files only")
        on_file(name)
        found.append(BuiltFile(path=name, size_bytes=path.stat().st_size, sha256=file_digest(path)))
    return found


def check_build(release_dir: Path, manifest: BuildManifest) -> list[str]:
    """Every difference between the files on disk and the build manifest; empty when all is as it was built."""
    try:
        on_disk = {file.path: file for file in list_files(release_dir)}
    except (BuildManifestError, OSError) as error:
        return [str(error)]
    built = {file.path: file for file in manifest.files}
    return [
        *(f"{path}: missing" for path in sorted(built.keys() - on_disk.keys())),
        *(f"{path}: not in the build manifest" for path in sorted(on_disk.keys() - built.keys())),
        *(f"{path}: not as it was built" for path in sorted(built) if path in on_disk and on_disk[path] != built[path]),
    ]


def check_published(release_dir: Path) -> list[str]:
    """What `check_build` says by the release's own build manifest; empty, too, where there is none."""
    if not (release_dir / FILE_NAME).exists():
        return []
    try:
        return check_build(release_dir, read_build_manifest(release_dir))
    except BuildManifestError as error:
        return [str(error)]


def _walk(release_dir: Path) -> Iterator[Path]:
    for path in sorted(release_dir.rglob("*")):
        top = path.relative_to(release_dir).parts[0]
        if top in _BESIDE or (path.is_dir() and not path.is_symlink()):
            continue
        yield path
