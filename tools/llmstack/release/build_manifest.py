"""build_manifest.json: every file of a release with its size and SHA-256, and how the release was built.

It leaves out what is added to a release later: the records of its runs (`EVIDENCE_FILES`) and the evaluation side's
manifests (`MODULE6`).
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
_RECORDS = (FILE_NAME, *EVIDENCE_FILES)
# A killed command may leave the temporary file of a record.
_EXCLUDED = {MODULE6, *_RECORDS, *(f"{name}.new" for name in _RECORDS)}


class BuildManifestError(ValueError):
    """The build manifest is missing or invalid; the text names every wrong key."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BuiltFile(_Strict):
    """One file; `path` is relative to the release, with slashes."""

    path: str
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Build(_Strict):
    """How a release was built; what is not known is empty."""

    command: str = ""
    source_commit: str = ""
    tensorrt_llm_version: str = ""


class BuildManifest(_Strict):
    """A release's files and origin; `built_at` is UTC in ISO 8601."""

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
        BuildManifestError: it is missing or invalid.
    """
    path = release_dir / FILE_NAME
    try:
        return BuildManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BuildManifestError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        errors = (f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors(include_url=False))
        raise BuildManifestError(f"{path}: {'; '.join(errors)}") from None


def list_files(release_dir: Path, on_file: Callable[[str], None] = lambda path: None) -> list[BuiltFile]:
    """Every file of the release with its hash, sorted by path; `on_file` receives each path before it is hashed.

    Raises:
        BuildManifestError: an entry is a link, which may lead out of the release, or not a regular file.
        OSError: a file can't be read.
    """
    files = []
    for path in _walk(release_dir):
        name = path.relative_to(release_dir).as_posix()
        if path.is_symlink() or not path.is_file():
            raise BuildManifestError(f"{name} is not a regular file: a release holds only regular files")
        on_file(name)
        files.append(BuiltFile(path=name, size_bytes=path.stat().st_size, sha256=file_digest(path)))
    return files


def check_build(release_dir: Path, manifest: BuildManifest) -> list[str]:
    """Every difference between the files on disk and the build manifest; empty when there is none."""
    try:
        on_disk = {file.path: file for file in list_files(release_dir)}
    except (BuildManifestError, OSError) as error:
        return [str(error)]
    built = {file.path: file for file in manifest.files}
    changed = (path for path in sorted(built) if path in on_disk and on_disk[path] != built[path])
    return [
        *(f"{path}: missing" for path in sorted(built.keys() - on_disk.keys())),
        *(f"{path}: not in the build manifest" for path in sorted(on_disk.keys() - built.keys())),
        *(f"{path}: differs from the build manifest" for path in changed),
    ]


def check_published(release_dir: Path) -> list[str]:
    """`check_build` with the release's own build manifest; empty, too, for a release without one."""
    if not (release_dir / FILE_NAME).exists():
        return []
    try:
        return check_build(release_dir, read_build_manifest(release_dir))
    except BuildManifestError as error:
        return [str(error)]


def _walk(release_dir: Path) -> Iterator[Path]:
    for path in sorted(release_dir.rglob("*")):
        top = path.relative_to(release_dir).parts[0]
        if top in _EXCLUDED or (path.is_dir() and not path.is_symlink()):
            continue
        yield path
