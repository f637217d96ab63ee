"""`llmstack tokenizer-info`."""

import json

import pytest
from typer.testing import CliRunner

from llmstack.cli.tokenizer_info import app
from llmstack.tokenizer.tokenizer_info import build_info, info_bytes
from tests.releases import write_tokenizer


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_build_writes_beside_the_tokenizer_and_check_agrees(tmp_path):
    directory = write_tokenizer(tmp_path / "tokenizer")
    built = invoke("build", "--tokenizer-dir", directory)
    assert built.exit_code == 0
    assert "4 tokens, stop tokens: 3 <|end|>" in built.stdout
    assert (tmp_path / "tokenizer_info.json").read_bytes() == info_bytes(build_info(directory))
    assert invoke("check", "--tokenizer-dir", directory).exit_code == 0


def test_check_exits_with_1_on_a_difference_and_prints_json(tmp_path):
    directory = write_tokenizer(tmp_path / "tokenizer")
    path = tmp_path / "info.json"
    path.write_text(json.dumps({**build_info(directory), "stop_token_ids": []}))
    found = invoke("check", "--tokenizer-dir", directory, "--info", path, "--json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["differences"] == ["stop_token_ids: file has [], tokenizer has [3]"]


@pytest.mark.parametrize("command", ["build", "check"])
def test_an_unreadable_tokenizer_exits_with_2_and_a_next_step(tmp_path, command):
    found = invoke(command, "--tokenizer-dir", tmp_path)
    assert found.exit_code == 2
    assert "No such file or directory" in found.stderr
    assert "next:  set --tokenizer-dir to" in found.stderr


def test_the_default_file_of_another_directory_lies_inside_it(tmp_path):
    directory = write_tokenizer(tmp_path / "Qwen3-4B")
    assert invoke("build", "--tokenizer-dir", directory).exit_code == 0
    assert (directory / "tokenizer_info.json").is_file()
    assert not (tmp_path / "tokenizer_info.json").exists()
    assert invoke("check", "--tokenizer-dir", directory).exit_code == 0


def test_a_linked_tokenizer_directory_has_its_file_beside_the_link(tmp_path):
    directory = write_tokenizer(tmp_path / "models" / "tokenizer")
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "tokenizer").symlink_to(directory)
    assert invoke("build", "--tokenizer-dir", tmp_path / "release" / "tokenizer").exit_code == 0
    assert (tmp_path / "release" / "tokenizer_info.json").is_file()
    assert not (tmp_path / "models" / "tokenizer_info.json").exists()
