"""Opening a release and checking its files against its manifest."""

import json
import shutil
from pathlib import Path

import pytest

from llm_policy.release.digest import engine_hash
from llm_policy.release.release import Release, ReleaseError
from tests.releases import change_manifest, write_release

LARGE_BYTES = 8_000_000


@pytest.fixture
def directory(tmp_path):
    write_release(tmp_path / "release")
    return tmp_path / "release"


def findings(directory):
    return Release.open(directory).check_files()


def test_an_unchanged_release_has_no_findings(directory):
    assert findings(directory) == []
    assert Release.open(directory).verify_files().directory == directory


def num_bytes_read() -> int:
    """The number of bytes that this process has read from files."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.fixture
def large(directory):
    """A release with an engine file of 8 MB."""
    (directory / "engine" / "rank1.engine").write_bytes(b"e" * LARGE_BYTES)
    manifest = json.loads((directory / "manifest.json").read_text())
    change_manifest(directory, engine={**manifest["engine"], "hash": engine_hash(directory / "engine")})
    return directory


@pytest.mark.parametrize(("is_known", "is_read"), [(True, False), (False, True)])
def test_an_engine_with_a_known_fingerprint_is_not_read_again(large, is_known, is_read):
    fingerprint = Release.open(large).verify_files().fingerprint
    before = num_bytes_read()
    assert Release.open(large).verify_files(fingerprint if is_known else "").fingerprint == fingerprint
    assert (num_bytes_read() - before > LARGE_BYTES) == is_read


@pytest.mark.parametrize("change", ["content", "replaced", "touched"])
def test_an_engine_written_since_its_fingerprint_is_read_again(large, change):
    fingerprint = Release.open(large).verify_files().fingerprint
    file = large / "engine" / "rank1.engine"
    before = num_bytes_read()
    if change == "touched":
        file.touch()
        Release.open(large).verify_files(fingerprint)
    else:
        fresh = file if change == "content" else large / "fresh"
        fresh.write_bytes(b"f" * LARGE_BYTES)
        fresh.replace(file)
        with pytest.raises(ReleaseError, match=r"engine\.hash: manifest has"):
            Release.open(large).verify_files(fingerprint)
    assert num_bytes_read() - before > LARGE_BYTES


def test_a_fingerprint_is_bound_to_the_manifests_engine_hash(large):
    fingerprint = Release.open(large).verify_files().fingerprint
    manifest = json.loads((large / "manifest.json").read_text())
    change_manifest(large, engine={**manifest["engine"], "hash": "sha256:" + "0" * 64})
    with pytest.raises(ReleaseError, match=r"engine\.hash: manifest has"):
        Release.open(large).verify_files(fingerprint)


def test_a_fingerprint_does_not_cover_the_other_files(directory):
    fingerprint = Release.open(directory).verify_files().fingerprint
    (directory / "tokenizer_info.json").write_text("{}")
    with pytest.raises(ReleaseError, match=r"tokenizer\.info_hash: manifest has"):
        Release.open(directory).verify_files(fingerprint)


def test_a_link_to_a_release_opens_its_target(directory, tmp_path):
    (tmp_path / "current").symlink_to("release")
    assert Release.open(tmp_path / "current").directory == directory


@pytest.mark.parametrize("change", ["content", "added", "removed"])
def test_a_changed_engine_is_reported_with_both_hashes(directory, change):
    manifest_hash = Release.open(directory).manifest.engine.hash
    file = directory / "engine" / ("new.engine" if change == "added" else "rank0.engine")
    file.unlink() if change == "removed" else file.write_bytes(b"changed")
    (finding,) = findings(directory)
    assert finding.startswith(f"engine.hash: manifest has {manifest_hash}, on disk is sha256:")


def test_a_missing_engine_is_reported(directory):
    shutil.rmtree(directory / "engine")
    (finding,) = findings(directory)
    assert finding.startswith("engine.hash: manifest has sha256:")
    assert "can't be read" in finding


def test_engine_plan_takes_precedence_over_the_engine_directory(directory):
    (directory / "engine.plan").write_bytes(b"plan")
    assert Release.open(directory).engine_path == directory / "engine.plan"
    assert findings(directory)[0].startswith("engine.hash: ")


def test_a_changed_tokenizer_info_is_reported_with_both_hashes(directory):
    manifest_hash = Release.open(directory).manifest.tokenizer.info_hash
    with (directory / "tokenizer_info.json").open("a") as file:
        file.write(" ")
    (finding,) = findings(directory)
    assert finding.startswith(f"tokenizer.info_hash: manifest has {manifest_hash}, on disk is sha256:")


@pytest.mark.parametrize("change", [lambda text: text + "\n", lambda text: text.replace("{", "{ ", 1)])
def test_a_changed_tokenizer_is_reported(directory, change):
    path = directory / "tokenizer" / "tokenizer.json"
    path.write_text(change(path.read_text()))
    (finding,) = findings(directory)
    assert finding.startswith("tokenizer/tokenizer.json differs from tokenizer_info.json's tokenizer_str")


@pytest.mark.parametrize("file", ["tokenizer_info.json", "tokenizer/tokenizer.json"])
def test_a_missing_tokenizer_file_is_reported(directory, file):
    (directory / file).unlink()
    (finding,) = findings(directory)
    assert finding.startswith("tokenizer.info_hash: ")
    assert file in finding


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "No such file or directory"), (b"{", "is not JSON"), (b'"\xff"', "byte 1 is not UTF-8")],
)
def test_an_unreadable_schema_is_reported(directory, content, text):
    path = directory / "schemas" / "verdict.json"
    path.unlink() if content is None else path.write_bytes(content)
    (finding,) = findings(directory)
    assert finding.startswith("schemas.verdict: schemas/verdict.json")
    assert text in finding


def test_a_schema_linked_to_outside_the_release_is_rejected(directory, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (directory / "schemas" / "verdict.json").unlink()
    (directory / "schemas" / "verdict.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ReleaseError, match=r"^schemas\.verdict: schemas/verdict\.json is outside the release$"):
        Release.open(directory).schema_text("verdict")
    assert findings(directory) == ["schemas.verdict: schemas/verdict.json is outside the release"]


def test_a_manifest_with_a_schema_path_outside_the_release_is_rejected(directory):
    change_manifest(directory, schemas={"verdict": "../secret.json"})
    with pytest.raises(ReleaseError, match=r'schemas\.verdict: "\.\./secret\.json": '):
        Release.open(directory)


def test_an_unknown_schema_is_rejected_with_the_known_ones(directory):
    with pytest.raises(ReleaseError, match=r"^schemas\.nope: not in the manifest \(known: label, verdict\)$"):
        Release.open(directory).schema_text("nope")


def test_all_findings_are_listed_together(directory):
    (directory / "engine" / "rank0.engine").write_bytes(b"changed")
    (directory / "tokenizer_info.json").write_text("{}")
    (directory / "schemas" / "label.json").unlink()
    with pytest.raises(ReleaseError) as caught:
        Release.open(directory).verify_files()
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "engine.hash",
        "tokenizer.info_hash",
        "schemas.label",
    ]


def test_a_missing_directory_is_reported_with_its_path(tmp_path):
    with pytest.raises(ReleaseError, match=r"no release at .*nowhere"):
        Release.open(tmp_path / "nowhere")


def test_a_directory_without_a_manifest_is_reported(tmp_path):
    with pytest.raises(ReleaseError, match=r"manifest\.json: No such file or directory"):
        Release.open(tmp_path)


def test_the_manifest_hash_covers_the_files_bytes(directory):
    before = Release.open(directory)
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())))  # the same manifest, spaced differently
    after = Release.open(directory)
    assert after.manifest == before.manifest
    assert after.manifest_hash != before.manifest_hash
