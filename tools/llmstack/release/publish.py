"""Takes a release into the store as a candidate: checked, described file by file, whole or not at all."""

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


def publish(
    store: ReleaseStore,
    directory: Path,
    name: str,
    build: Build,
    report: Callable[[str], None] = lambda text: None,
) -> Release:
    """Check the release at `directory` and register it in the store under `name`; what lies elsewhere is copied.

    Its own build manifest is kept and must hold; without one `build` goes into a new one. `report` is told each step.

    Raises:
        ReleaseError: it is no release, or its files are not those of its manifests; lists every difference.
        StoreError: the name is taken or no name.
        OSError: something can't be read or written.
    """
    report("checking the release")
    release = Release.open(directory).verify_files()
    is_inside = release.directory.parent == store.releases_dir.resolve()
    if is_inside and release.directory.name != name:
        raise ReleaseError(f"{release.directory} is in the store as {release.directory.name!r}, not {name!r}")
    manifest = _build_manifest(release, name, build, report)
    if is_inside:
        _write(release.directory, manifest)
        return release
    target = store.new_directory(name)
    fresh = target.with_name(f".{name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    report(f"copying to {target}")
    try:
        _copy(release.directory, fresh, manifest)
        report("checking the copy")
        _check(fresh, manifest)
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return Release.open(target)


def source_commit(directory: Path) -> str:
    """The commit of the checkout that `directory` lies in; empty where there is none."""
    command = ["git", "-C", str(directory), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _build_manifest(release: Release, name: str, build: Build, report: Callable[[str], None]) -> BuildManifest:
    if (release.directory / FILE_NAME).exists():
        manifest = _read(release.directory)
        report("comparing with its build manifest")
        _check(release.directory, manifest)
        return manifest
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


def _read(directory: Path) -> BuildManifest:
    try:
        return read_build_manifest(directory)
    except BuildManifestError as error:
        raise ReleaseError(str(error)) from None


def _check(directory: Path, manifest: BuildManifest) -> None:
    if findings := check_build(directory, manifest):
        raise ReleaseError("\n".join(findings))


def _copy(directory: Path, fresh: Path, manifest: BuildManifest) -> None:
    """Raise one OSError for all that could not be copied: shutil's own has a list, and neither file nor reason."""
    try:
        shutil.copytree(directory, fresh, symlinks=True)
    except shutil.Error as error:
        _, target, reason = error.args[0][0]
        raise OSError(None, str(reason), str(target)) from None
    _write(fresh, manifest)


def _write(directory: Path, manifest: BuildManifest) -> None:
    fresh = directory / f"{FILE_NAME}.new"
    fresh.write_bytes(manifest.to_bytes())
    fresh.replace(directory / FILE_NAME)
