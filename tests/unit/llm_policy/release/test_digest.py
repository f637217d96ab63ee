"""The engine hash and the engine fingerprint."""

import os
import subprocess

import pytest

from llm_policy.release.digest import engine_fingerprint, engine_hash, file_digest

DIRECTORY_PIPELINE = r"find -L . -type f | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum"


def shell(command, directory):
    done = subprocess.run(["bash", "-c", command], cwd=directory, capture_output=True, text=True, check=True)
    return "sha256:" + done.stdout.split()[0]


@pytest.fixture
def engine(tmp_path):
    directory = tmp_path / "engine"
    for name in ("config.json", "rank0.engine", "a b.txt", "sub/Z.bin", "sub/a.bin", "sub-1/x", "Ünï.bin", ".hidden"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 1_000)
    (directory / "empty").touch()
    return directory


def test_a_directorys_hash_equals_that_of_the_shell_pipeline(engine):
    assert engine_hash(engine) == shell(DIRECTORY_PIPELINE, engine)


def test_a_files_hash_equals_that_of_sha256sum(engine):
    assert engine_hash(engine / "rank0.engine") == shell("sha256sum rank0.engine", engine)


def test_a_file_longer_than_one_chunk_is_hashed_completely(tmp_path):
    (tmp_path / "plan").write_bytes(os.urandom(3_000_001))
    assert "sha256:" + file_digest(tmp_path / "plan") == shell("sha256sum plan", tmp_path)


def test_links_are_hashed_like_their_targets(engine, tmp_path):
    plain = engine_hash(engine)
    (engine / "sub").rename(tmp_path / "elsewhere")
    (engine / "sub").symlink_to(tmp_path / "elsewhere")
    (engine / "rank0.engine").rename(tmp_path / "blob")
    (engine / "rank0.engine").symlink_to(tmp_path / "blob")
    assert engine_hash(engine) == plain == shell(DIRECTORY_PIPELINE, engine)


@pytest.mark.parametrize("change", ["content", "rename", "add", "remove"])
@pytest.mark.parametrize("of", [engine_hash, engine_fingerprint])
def test_any_change_of_a_file_changes_the_hash_and_the_fingerprint(engine, change, of):
    before = of(engine)
    file = engine / "sub" / "a.bin"
    if change == "content":
        file.write_bytes(b"other")
    elif change == "rename":
        file.rename(engine / "sub" / "b.bin")
    elif change == "add":
        (engine / "new").touch()
    else:
        file.unlink()
    assert of(engine) != before


@pytest.mark.parametrize("name", ["sub/a.bin", ""])
def test_a_write_changes_the_fingerprint_even_if_mtime_is_restored(engine, name):
    file = engine / (name or "rank0.engine")
    subject = engine if name else file
    times, before = file.stat(), engine_fingerprint(subject)
    content = file.read_bytes()[::-1]
    while file.stat().st_ctime_ns == times.st_ctime_ns:  # until the file system's clock, of milliseconds, moves on
        file.write_bytes(content)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert engine_fingerprint(subject) != before


def test_the_fingerprint_follows_links(engine, tmp_path):
    (engine / "rank0.engine").rename(tmp_path / "blob")
    (engine / "rank0.engine").symlink_to(tmp_path / "blob")
    before = engine_fingerprint(engine)
    (tmp_path / "blob").write_bytes(b"other")
    assert engine_fingerprint(engine) != before


def test_an_empty_directory_is_not_an_engine(tmp_path):
    with pytest.raises(FileNotFoundError, match="no engine file"):
        engine_hash(tmp_path)


def test_a_missing_engine_is_reported_with_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        engine_hash(tmp_path / "nowhere")


def test_a_broken_link_is_rejected(engine):
    (engine / "gone").symlink_to(engine / "not-there")
    with pytest.raises(FileNotFoundError, match="broken link"):
        engine_hash(engine)


def test_a_directory_that_links_to_itself_is_rejected(engine):
    (engine / "loop").symlink_to(engine)
    with pytest.raises(OSError, match="loop"):
        engine_hash(engine)


@pytest.mark.parametrize("name", ["line\nbreak", "back\\slash", "escape\x1b"])
def test_a_file_name_that_could_forge_the_listing_is_rejected(engine, name):
    (engine / name).touch()
    with pytest.raises(OSError, match="backslash or unprintable character"):
        engine_hash(engine)
