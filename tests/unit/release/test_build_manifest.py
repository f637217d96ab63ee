"""A build manifest lists every file of a release, and finds every one that differs."""

import pytest

from llm_policy.release.release import Release
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.release.build_manifest import (
    Build,
    BuildManifest,
    BuildManifestError,
    check_build,
    list_files,
    read_build_manifest,
)
from tests.releases import write_release


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "r1")


def build_manifest(release) -> BuildManifest:
    return BuildManifest(
        release="r1",
        model="Qwen3-32B",
        quantisation="w4a8",
        engine_hash=release.manifest.engine.hash,
        manifest_hash=release.manifest_hash,
        build=Build(command="make"),
        built_at="2026-01-01T00:00:00Z",
        files=list_files(release.directory),
    )


def test_a_build_manifest_read_from_its_file_is_unchanged(release):
    manifest = build_manifest(release)
    (release.directory / "build_manifest.json").write_bytes(manifest.to_bytes())
    assert read_build_manifest(release.directory) == manifest


def test_it_lists_every_file_but_the_evidence_and_the_evaluation_sides_manifests(release):
    for name in ("warmup.json", "smoke.json", "bench_gate.json", "build_manifest.json"):
        (release.directory / name).write_text("{}")
    (release.directory / "module6").mkdir()
    (release.directory / "module6" / "judge.json").write_text("{}")
    paths = {file.path for file in list_files(release.directory)}
    assert {"manifest.json", "engine/rank0.engine", "tokenizer/tokenizer.json", "schemas/label.json"} <= paths
    assert not any("module6" in path or "warmup" in path or "build_manifest" in path for path in paths)


def test_changed_added_and_missing_files_are_found(release):
    manifest = build_manifest(release)
    assert check_build(release.directory, manifest) == []
    (release.directory / "engine" / "rank0.engine").write_bytes(b"engine!")
    (release.directory / "engine" / "rank1.engine").write_bytes(b"more")
    (release.directory / "schemas" / "label.json").unlink()
    assert check_build(release.directory, manifest) == [
        "schemas/label.json: missing",
        "engine/rank1.engine: not in the build manifest",
        "engine/rank0.engine: differs from the build manifest",
    ]


def test_the_embedded_release_agrees_with_its_build_manifest():
    release = Release.open(DEFAULT_RELEASE_DIR)
    manifest = read_build_manifest(release.directory)
    assert check_build(release.directory, manifest) == [], "publish it again: docs/embedded_model.md"
    assert (manifest.engine_hash, manifest.manifest_hash) == (release.manifest.engine.hash, release.manifest_hash)


def test_a_link_in_a_release_is_an_error(release):
    (release.directory / "engine" / "secret").symlink_to("/etc/passwd")
    with pytest.raises(BuildManifestError, match="engine/secret is not a regular file"):
        list_files(release.directory)


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "file: "), ("{}", "release: Field required"), ('{"release": 1}', "release: Input should be a valid string")],
)
def test_an_invalid_build_manifest_is_an_error_with_the_key(release, text, fault):
    (release.directory / "build_manifest.json").write_text(text)
    with pytest.raises(BuildManifestError, match=fault):
        read_build_manifest(release.directory)
