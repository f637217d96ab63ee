"""`llmstack dashboard`."""

import json

import pytest
from typer.testing import CliRunner

from llmstack.cli.app import app

pytest.importorskip("grafana_foundation_sdk")


def run(*arguments: str):
    return CliRunner().invoke(app, ["dashboard", *arguments])


def test_an_existing_file_stays_as_it_is(tmp_path):
    output = tmp_path / "llmstack.json"
    output.write_text("mine")
    result = run("--output", str(output))
    assert result.exit_code == 2
    assert "give --force to overwrite it" in " ".join(result.output.split())
    assert output.read_text() == "mine"


def test_force_overwrites_it(tmp_path):
    output = tmp_path / "llmstack.json"
    output.write_text("mine")
    assert run("--output", str(output), "--force").exit_code == 0
    assert json.loads(output.read_text())["panels"]
