"""`llmstack doctor`: its table, its JSON and its exit code."""

import json

from typer.testing import CliRunner

from llmstack.cli.app import app
from llmstack.cli.doctor import print_check_results
from llmstack.diagnostics.check_result import CheckResult, CheckStatus


def test_brackets_in_a_path_are_printed_unchanged(capsys):
    print_check_results([CheckResult("release", CheckStatus.FAIL, "no release at a[/b]", "look at [red]")])
    output = capsys.readouterr().out
    assert "a[/b]" in output
    assert "[red]" in output


def test_serve_examine_checks_the_options_of_serve(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    arguments = ["serve", "--examine", "--engine", "tensorrtllm", "--state-dir", str(tmp_path / "state")]
    result = CliRunner().invoke(app, [*arguments, "--http-port", "0", "--grpc-port", "0"])
    assert result.exit_code == 1
    assert "✘ gpu" in result.output
    assert "tensorrtllm" in result.output
    assert not (tmp_path / "state").exists()


def test_doctor_prints_json_and_fails_for_an_image_without_guided_decoding(tmp_path):
    arguments = ["doctor", "--json", "--state-dir", str(tmp_path), "--engine", "tensorrtllm"]
    arguments += ["--image", "24.05-trtllm-python-py3", "--http-port", "0", "--grpc-port", "0"]
    arguments += ["--metrics-port", "0", "--ready-port", "0"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert {"check": "image", "verdict": "fail"}.items() <= json.loads(result.output)[0].items()


def test_the_engines_options_are_checked_wherever_they_are_given(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    arguments = ["doctor", "--json", "--state-dir", str(tmp_path), "--engine", "vllm"]
    monkeypatch.setenv("LLMSTACK_ENGINE_OPTIONS", "tensor_parallel_size=2 max_model_len=8192")
    for options in ([], ["--engine-option", "tensor_parallel_size=2"]):
        result = CliRunner().invoke(app, [*arguments, *options])
        found = {each["check"]: each["text"] for each in json.loads(result.output)}
        assert found["engine options"].startswith("2 of 0 GPUs: tensor_parallel_size=2")


def test_serve_examine_checks_the_engines_options(tmp_path):
    arguments = ["serve", "--examine", "--engine", "echo", "--engine-option", "a=b", "--state-dir", str(tmp_path / "s")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "echo takes no option a" in " ".join(result.output.split())
