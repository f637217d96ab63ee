"""The board follows the service's state directory; an explicit directory wins, and an earlier board is not lost."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from llmstack.board.board_directory import BoardDirectory, find_board_directory
from llmstack.cli.app import app


@pytest.fixture
def default(tmp_path):
    return tmp_path / "home" / "llmstack"


def write_board(directory):
    directory.mkdir(parents=True)
    (directory / "board.db").touch()
    return directory


def test_the_board_is_in_the_state_directory(default, tmp_path):
    for state_dir in (default, tmp_path / "elsewhere"):
        assert find_board_directory(state_dir, default) == BoardDirectory(state_dir / "board")


def test_an_earlier_board_stays_in_use_with_the_default_state_directory(default, tmp_path):
    earlier = write_board(tmp_path / "home" / "llmstack-board")
    assert find_board_directory(default, default) == BoardDirectory(earlier)
    assert find_board_directory(tmp_path / "elsewhere", default) == BoardDirectory(
        tmp_path / "elsewhere" / "board", earlier
    )


def test_an_earlier_board_does_not_matter_once_the_new_place_has_one(default, tmp_path):
    write_board(tmp_path / "home" / "llmstack-board")
    for state_dir in (default, tmp_path / "elsewhere"):
        write_board(state_dir / "board")
        assert find_board_directory(state_dir, default) == BoardDirectory(state_dir / "board")


def names(*arguments: str) -> list[str]:
    result = CliRunner().invoke(app, ["board", "reviewer", "list", "--json", *arguments])
    assert result.exit_code == 0, result.output
    return [each["name"] for each in json.loads(result.stdout)]


def test_the_variable_of_the_state_directory_moves_the_board_and_board_dir_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMSTACK_STATE_DIR", str(tmp_path / "state"))
    for name, options in (("Ada", []), ("Grace", ["--board-dir", str(tmp_path / "own")])):
        assert CliRunner().invoke(app, ["board", "reviewer", "add", name, *options]).exit_code == 0
    assert (tmp_path / "state" / "board" / "board.db").exists()
    assert names() == names("--state-dir", str(tmp_path / "state")) == ["Ada"]
    assert names("--board-dir", str(tmp_path / "own")) == ["Grace"]
    monkeypatch.setenv("LLMSTACK_BOARD_DIR", str(tmp_path / "own"))
    assert names() == ["Grace"]


def test_a_board_that_is_left_alone_is_named_until_the_new_place_has_one(tmp_path):
    earlier = write_board(tmp_path / "home" / "llmstack-board")

    def add(name: str) -> subprocess.CompletedProcess[str]:
        options = ("--state-dir", str(tmp_path / "state"))
        command = [sys.executable, "-m", "llmstack", "board", "reviewer", "add", name, *options]
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "home")}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    first, second = add("Ada"), add("Grace")
    assert f"{earlier} is not used" in first.stderr
    assert len(first.stdout.split()) == 1  # the token alone
    assert second.stderr == ""
