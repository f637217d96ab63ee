"""`llmstack bench engine`: errors name what is wrong."""

from typer.testing import CliRunner

from llmstack.cli.bench.app import app
from portable_engine.loader import DEVICE


def test_the_error_for_a_release_without_an_engine_names_its_directory(tmp_path):
    result = CliRunner().invoke(app, ["engine", "--release", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "no config.json in" in result.stderr
    assert "none/engine" in result.stderr


def test_the_error_for_a_missing_device_names_it(monkeypatch):
    monkeypatch.setenv(DEVICE, "sesame")
    result = CliRunner().invoke(app, ["engine"])
    assert result.exit_code == 2
    assert "LLMSTACK_ENGINE_DEVICE is 'sesame'" in result.stderr
