"""`build`: what it replaces, and what it rejects."""

import pytest
from typer.testing import CliRunner

from embedded_model.cli.app import app
from embedded_model.release.builder import build_release
from embedded_model.training.checkpoint import Checkpoint
from tests.unit.embedded_model.release_files import COMMITTED, read_files


def test_build_rejects_an_invalid_evaluation(tmp_path):
    (tmp_path / "evaluation.json").write_text('{"run": {}}')
    command = ["build", "--checkpoint", str(COMMITTED), "--output", str(tmp_path / "release")]
    rejected = CliRunner().invoke(app, [*command, "--evaluation", str(tmp_path / "evaluation.json")])
    assert rejected.exit_code == 2
    assert "is not an evaluation" in rejected.stderr


def test_build_rejects_a_directory_that_is_not_empty(tmp_path):
    (tmp_path / "keep").touch()
    runner = CliRunner()
    assert "add --force" in runner.invoke(app, ["build", "--output", str(tmp_path)]).stderr
    assert "holds no release" in runner.invoke(app, ["build", "--output", str(tmp_path), "--force"]).stderr
    assert (tmp_path / "keep").exists()


@pytest.mark.slow
def test_build_rejects_a_symbolic_link_and_names_its_target(tmp_path):
    build_release(tmp_path / "old", seed=1)
    (tmp_path / "link").symlink_to(tmp_path / "old")
    rejected = CliRunner().invoke(app, ["build", "--output", str(tmp_path / "link"), "--force"])
    assert rejected.exit_code == 2
    assert str(tmp_path / "old") in rejected.stderr


@pytest.mark.slow
def test_a_failed_forced_build_keeps_the_old_release(tmp_path):
    checkpoint = Checkpoint.read(COMMITTED)
    other = checkpoint._replace(record=checkpoint.record.model_copy(update={"tokenizer_sha256": "0" * 64}))
    (tmp_path / "checkpoint").mkdir()
    other.write(tmp_path / "checkpoint")
    old = tmp_path / "release"
    before = read_files(build_release(old, seed=1).directory)
    command = ["build", "--checkpoint", str(tmp_path / "checkpoint"), "--output", str(old), "--force"]
    rejected = CliRunner().invoke(app, command)
    assert rejected.exit_code == 2
    assert "doesn't fit" in rejected.stderr
    assert read_files(old) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "release"]


@pytest.mark.slow
def test_a_forced_build_replaces_the_whole_release(release, tmp_path):
    build_release(tmp_path, seed=1)
    (tmp_path / "engine" / "old.bin").touch()
    built = CliRunner().invoke(app, ["build", "--output", str(tmp_path), "--force"])
    assert built.exit_code == 0, built.output
    assert release.manifest.engine.hash in built.stdout
    assert read_files(tmp_path) == read_files(release.directory)
