"""`llmstack image` without Docker."""

import pytest
from typer.testing import CliRunner

from llmstack.cli.app import app
from llmstack.cli.terminal import EXIT_ERROR

pytest.importorskip("docker.errors")


@pytest.mark.parametrize("command", ["build", "check"])
def test_a_docker_that_does_not_answer_is_reported_with_a_next_step(monkeypatch, tmp_path, command):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    result = CliRunner().invoke(app, ["image", command])
    assert result.exit_code == EXIT_ERROR
    assert "error: Docker:" in result.stderr
    assert "docker info" in result.stderr
