"""Publishes a release: checks it, lists its files in a build manifest, and copies it into the store atomically."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from llm_policy.release.release import Release, ReleaseError
from llmstack.release.build_manifest import (
    FILE_NAME,
    Build,
    BuildManifest,
    BuildManifestError,
    check_build,
    list_files,
    read_build_manifest,
)
from llmstack.release.store import ReleaseStore


class BuildDiffersError(ReleaseError):
    """The files are not those of the release's build manifest; `next_step` says what to do."""

    def __init__(self, directory: Path, differences: list[str], *, is_published: bool) -> None:
        super().__init__("\n".join(differences))
        path = directory / FILE_NAME
        self.next_step = (
            "a published release does not change: restore its files, or copy it to a directory outside the store, "
            f"delete {FILE_NAME} there and publish that under a new name"
            if is_published
            else f"delete {path}, which describes another state of these files, perhaps that of the release they were "
            "copied from, and publish again; or restore the files"
        )


def publish(
    store: ReleaseStore,
    directory: Path,
    name: str,
    build: Build,
    report: Callable[[str], None] = lambda text: None,
) -> Release:
    """Check the release at `directory` and register it in the store under `name`; one from elsewhere is copied.

    An existing build manifest is kept, and every file must match it; otherwise a new one records `build`. `report`
    receives a description of each step.

    Raises:
        ReleaseError: `directory` is not a release, or its files differ from its manifest; lists every difference.
        BuildDiffersError: its files differ from its build manifest.
        StoreError: the name is taken or not allowed.
        OSError: a file can't be read or written.
    """
    report("checking the release")
    release = Release.open(directory).verify_files()
    is_inside = release.directory.parent == store.releases_dir.resolve()
    if is_inside and release.directory.name != name:
        raise ReleaseError(f"{release.directory} is in the store as {release.directory.name!r}, not {name!r}")
    manifest = _build_manifest(release, name, build, report, is_inside=is_inside)
    if is_inside:
        write_build_manifest(release.directory, manifest)
        return release
    target = store.new_directory(name)
    temporary = target.with_name(f".{name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    report(f"copying to {target}")
    try:
        _copy(release.directory, temporary, manifest)
        report("checking the copy")
        _check(temporary, manifest)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Release.open(target)


def source_commit(directory: Path) -> str:
    """The commit of the Git checkout that contains `directory`; empty when none does."""
    command = ["git", "-C", str(directory), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def describe_build(release: Release, name: str, build: Build, report: Callable[[str], None]) -> BuildManifest:
    """The build manifest of the release's files, which are hashed; `report` receives a description of each step.

    Raises:
        ReleaseError: a file is a link or not a regular file.
        OSError: a file can't be read.
    """
    try:
        files = list_files(release.directory, lambda path: report(f"hashing {path}"))
    except BuildManifestError as error:
        raise ReleaseError(str(error)) from None
    engine = release.manifest.engine
    return BuildManifest(
        release=name,
        model=engine.model,
        quantisation=engine.quantisation,
        engine_hash=engine.hash,
        manifest_hash=release.manifest_hash,
        build=build,
        built_at=datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        files=files,
    )


def _build_manifest(
    release: Release, name: str, build: Build, report: Callable[[str], None], *, is_inside: bool
) -> BuildManifest:
    if not (release.directory / FILE_NAME).exists():
        return describe_build(release, name, build, report)
    manifest = _read(release.directory)
    report("comparing with its build manifest")
    if differences := check_build(release.directory, manifest):
        is_published = is_inside and manifest.release == name
        raise BuildDiffersError(release.directory, differences, is_published=is_published)
    return manifest


def _read(directory: Path) -> BuildManifest:
    try:
        return read_build_manifest(directory)
    except BuildManifestError as error:
        raise ReleaseError(str(error)) from None


def _check(directory: Path, manifest: BuildManifest) -> None:
    if differences := check_build(directory, manifest):
        raise ReleaseError("\n".join(differences))


def _copy(directory: Path, target: Path, manifest: BuildManifest) -> None:
    try:
        shutil.copytree(directory, target, symlinks=True)
    except shutil.Error as error:  # a list of errors, with neither `filename` nor `strerror`: raise the first one
        _, path, reason = error.args[0][0]
        raise OSError(None, str(reason), str(path)) from None
    write_build_manifest(target, manifest)


def write_build_manifest(directory: Path, manifest: BuildManifest) -> None:
    """Write the build manifest of the release at `directory`, atomically.

    Raises:
        OSError: it can't be written.
    """
    new_path = directory / f"{FILE_NAME}.new"
    new_path.write_bytes(manifest.to_bytes())
    new_path.replace(directory / FILE_NAME)
