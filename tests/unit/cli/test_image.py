"""`llmstack image` without Docker."""

import pytest
from typer.testing import CliRunner

from llmstack.cli.app import app
from llmstack.cli.image import Variant
from llmstack.cli.terminal import EXIT_ERROR

pytest.importorskip("docker.errors")

from llmstack.image.image_build import VARIANTS


@pytest.mark.parametrize("command", ["build", "check"])
def test_a_docker_that_does_not_answer_is_reported_with_a_next_step(monkeypatch, tmp_path, command):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    result = CliRunner().invoke(app, ["image", command])
    assert result.exit_code == EXIT_ERROR
    assert "error: Docker:" in result.stderr
    assert "docker info" in result.stderr


def test_the_variants_of_the_command_are_those_of_the_build():
    assert [variant.value for variant in Variant] == list(VARIANTS)


def test_an_unknown_engine_is_an_error_that_names_the_known_ones():
    result = CliRunner().invoke(app, ["image", "build", "--engine", "echo"])
    assert result.exit_code == EXIT_ERROR
    assert "trtllm" in result.stderr
    assert "vllm" in result.stderr
