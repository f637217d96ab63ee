"""`llmstack headers` prints what a client needs in its own form."""

import json
import shlex
import subprocess

import pytest
from typer.testing import CliRunner

from llm_policy.release.release import Release
from llmstack.cli.app import app
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.releases import write_release

ENGINE = Release.open(DEFAULT_RELEASE_DIR).manifest.engine
HEADERS = {"X-Engine-Hash": ENGINE.hash, "X-Quantisation": ENGINE.quantisation}


def printed(*arguments):
    done = CliRunner().invoke(app, ["headers", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_curl_takes_them_as_options():
    lines = [f"{name}: {value}" for name, value in HEADERS.items()]
    assert shlex.split(printed()) == ["-H", lines[0], "-H", lines[1]]


def test_python_gets_a_dictionary_that_grpc_takes_too():
    namespace = {}
    exec(printed("--format", "python"), namespace)
    assert namespace["headers"] == {name.lower(): value for name, value in HEADERS.items()}


def test_json_is_one_object():
    assert json.loads(printed("--format", "json")) == HEADERS


def test_a_shell_takes_them_as_variables_that_its_children_see():
    script = f"{printed('--format', 'env')}\nsh -c 'echo $HASH $QUANTISATION'"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(HEADERS.values())


def test_another_release_is_named_by_its_directory(tmp_path):
    release = write_release(tmp_path)
    assert (
        json.loads(printed("--release", tmp_path, "--format", "json"))["X-Engine-Hash"] == release.manifest.engine.hash
    )


def test_standard_error_says_where_an_api_key_goes():
    note = CliRunner().invoke(app, ["headers"]).stderr
    assert all(text in note for text in ("`Authorization: Bearer KEY`", "`X-Api-Key: KEY`", "/generate"))


@pytest.mark.parametrize("form", ["yaml", "CURL"])
def test_an_unknown_format_is_refused_with_the_known_ones(form):
    done = CliRunner().invoke(app, ["headers", "--format", form])
    assert done.exit_code == 2
    assert "curl" in done.stderr


def test_a_missing_release_exits_with_2_and_a_next_step(tmp_path):
    done = CliRunner().invoke(app, ["headers", "--release", str(tmp_path)])
    assert done.exit_code == 2
    assert "next:  name the release directory" in done.stderr
