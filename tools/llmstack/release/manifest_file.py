"""The runtime manifest of a release: described from its files, written, and compared with other manifests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm_policy.prompt_runtime import Difference, PromptRuntimeManager
from llm_policy.release.digest import engine_hash, file_digest
from llm_policy.release.manifest import Manifest, ManifestError, parse_manifest
from llm_policy.release.release import Release, ReleaseError
from llmstack.release.build_manifest import MODULE6
from llmstack.release.evaluation_manifest import SECTION, Evaluation, read_evaluation_manifest
from llmstack.release.load_check import check_loads
from llmstack.tokenizer.tokenizer_info import TokenizerInfoError, check_info

_NO_EVALUATION = f"it has no section {SECTION!r}, which names the run of the evaluation: docs/releases.md"
_OWN_MANIFEST = (
    f"it is the release's own manifest or a copy, and not the evaluation side's: that has a section {SECTION!r}, which "
    "names the run of the evaluation: docs/releases.md"
)


class Alignment(NamedTuple):
    """How one manifest of the evaluation side ("Module 6") differs from the release's; aligned without differences."""

    file: str
    differences: list[str]
    evaluation: Evaluation | None = None


def describe_release(directory: Path, settings: Mapping[str, Any]) -> Manifest:
    """The manifest of the files in `directory`: hashes and schemas from disk, everything else from `settings`.

    `settings` has the manifest's keys, without `tokenizer`, `schemas` and `engine.hash`.

    Raises:
        ReleaseError: the engine or the tokenizer info can't be read.
        ManifestError: a setting is not allowed.
    """
    plan = directory / "engine.plan"
    tree = {
        **settings,
        "engine": {"hash": _digest(engine_hash, plan if plan.exists() else directory / "engine"), **settings["engine"]},
        "tokenizer": {"info_hash": "sha256:" + _digest(file_digest, directory / "tokenizer_info.json")},
        "schemas": {path.stem: f"schemas/{path.name}" for path in sorted(directory.glob("schemas/*.json"))},
    }
    return parse_manifest(json.dumps(tree))


def manifest_bytes(manifest: Manifest) -> bytes:
    """The bytes of manifest.json: keys in the manifest's own order, every default written out."""
    tree = manifest.model_dump(exclude_none=True)
    return (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode()


def write_manifest(directory: Path, settings: Mapping[str, Any]) -> tuple[Manifest, list[Difference]]:
    """Write manifest.json of the files in `directory`; `settings` as in `describe_release`.

    Returns the manifest and its differences to the one it replaces; none when there was none that can be read.

    Raises:
        ReleaseError: a file is missing, or tokenizer_info.json does not describe the tokenizer.
        ReleaseWouldNotLoad: a server could not load the release.
        ManifestError: a setting is not allowed.
        OSError: manifest.json can't be written.
    """
    _check_tokenizer_info(directory)
    manifest = describe_release(directory, settings)
    check_loads(directory, manifest)
    differences = _differences_to_current(directory, manifest)
    (directory / "manifest.json").write_bytes(manifest_bytes(manifest))
    return manifest, differences


def read_alignments(release: Release, against: Sequence[Path] = ()) -> list[Alignment]:
    """Compare with every manifest in the release's `MODULE6` directory, then with those of `against`.

    A manifest that can't be read counts as different, and so does one that does not name its evaluation: the release's
    own manifest and its copies don't.
    """
    runtime = PromptRuntimeManager(release)
    files = [*sorted((release.directory / MODULE6).glob("*.json")), *against]
    return [_alignment(runtime, file) for file in files]


def _alignment(runtime: PromptRuntimeManager, file: Path) -> Alignment:
    try:
        evaluation, manifest = read_evaluation_manifest(file)
    except (ManifestError, OSError) as error:
        return Alignment(file.name, [str(error)])
    differences = [str(difference) for difference in runtime.verify(manifest)]
    if evaluation is None:
        differences.insert(0, _OWN_MANIFEST if not differences else _NO_EVALUATION)
    return Alignment(file.name, differences, evaluation)


def _check_tokenizer_info(directory: Path) -> None:
    """The manifest must not name the hash of an info file that shifts or misses tokens.

    Raises:
        ReleaseError: tokenizer_info.json does not describe the tokenizer, or one of them can't be read.
    """
    path = directory / "tokenizer_info.json"
    try:
        differences = check_info(path, directory / "tokenizer")
    except TokenizerInfoError as error:
        raise ReleaseError(str(error)) from None
    if differences:
        raise ReleaseError(f"{path} does not match the tokenizer: {differences[0]} (1 of {len(differences)})")


def _differences_to_current(directory: Path, manifest: Manifest) -> list[Difference]:
    try:
        return PromptRuntimeManager(directory).verify(manifest)
    except ReleaseError:
        return []


def _digest(digest: Callable[[Path], str], path: Path) -> str:
    try:
        return str(digest(path))
    except OSError as error:
        raise ReleaseError(f"{error.filename or path}: {error.strerror}") from None
