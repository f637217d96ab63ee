"""A build manifest names every file of a release, and finds every one that is another."""

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


def test_it_comes_back_from_its_file_as_it_was(release):
    manifest = build_manifest(release)
    (release.directory / "build_manifest.json").write_bytes(manifest.to_bytes())
    assert read_build_manifest(release.directory) == manifest


def test_every_file_is_in_it_but_evidence_and_other_peoples_manifests(release):
    for name in ("warmup.json", "smoke.json", "bench_gate.json", "build_manifest.json"):
        (release.directory / name).write_text("{}")
    (release.directory / "module6").mkdir()
    (release.directory / "module6" / "judge.json").write_text("{}")
    paths = {file.path for file in list_files(release.directory)}
    assert {"manifest.json", "engine/rank0.engine", "tokenizer/tokenizer.json", "schemas/label.json"} <= paths
    assert not any("module6" in path or "warmup" in path or "build_manifest" in path for path in paths)


def test_what_changed_came_and_went_is_named(release):
    manifest = build_manifest(release)
    assert check_build(release.directory, manifest) == []
    (release.directory / "engine" / "rank0.engine").write_bytes(b"engine!")
    (release.directory / "engine" / "rank1.engine").write_bytes(b"more")
    (release.directory / "schemas" / "label.json").unlink()
    assert check_build(release.directory, manifest) == [
        "schemas/label.json: missing",
        "engine/rank1.engine: not in the build manifest",
        "engine/rank0.engine: not as it was built",
    ]


def test_the_embedded_release_is_as_its_build_manifest_says():
    release = Release.open(DEFAULT_RELEASE_DIR)
    manifest = read_build_manifest(release.directory)
    assert check_build(release.directory, manifest) == [], "publish it anew: docs/embedded_model.md"
    assert (manifest.engine_hash, manifest.manifest_hash) == (release.manifest.engine.hash, release.manifest_hash)


def test_a_link_is_no_file_of_a_release(release):
    (release.directory / "engine" / "secret").symlink_to("/etc/passwd")
    with pytest.raises(BuildManifestError, match="engine/secret is no plain file"):
        list_files(release.directory)


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "file: "), ("{}", "release: Field required"), ('{"release": 1}', "release: Input should be a valid string")],
)
def test_what_is_wrong_with_it_is_said(release, text, fault):
    (release.directory / "build_manifest.json").write_text(text)
    with pytest.raises(BuildManifestError, match=fault):
        read_build_manifest(release.directory)
