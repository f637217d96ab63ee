"""`llmstack capacity`."""

import json

import pytest
import typer
from typer.testing import CliRunner

from llmstack.capacity.model_shapes import QWEN3_32B
from llmstack.cli.capacity import capacity

app = typer.Typer()
app.command()(capacity)


def run(*arguments: str):
    return CliRunner().invoke(app, arguments)


def test_four_requests_of_6000_tokens_fit_beside_an_engine_of_18_gb_in_32_gb():
    result = run("--gpu-memory", "32GB", "--engine-bytes", "18GB", "--model", "Qwen3-32B", "--json")
    document = json.loads(result.output)
    assert result.exit_code == 0
    assert (document["bytes_per_request"], document["free_bytes"]) == (1_572_864_000, 12_000_000_000)
    assert (document["num_requests"], document["holds"]) == (5, True)


def test_a_batch_that_does_not_fit_exits_with_1_and_is_reported():
    result = run("--gpu-memory", "24GB", "--engine-bytes", "18GB", "--kv-type", "bf16")
    assert result.exit_code == 1
    assert "a batch of 4 does not fit" in " ".join(result.output.split())


def test_a_model_can_be_given_by_its_config_json(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}))
    document = json.loads(run("--gpu-memory", "1GB", "--engine-bytes", "0", "--model", str(config), "--json").output)
    assert document["bytes_per_token"] == 2 * 2 * 4 * 16 * 2


def test_a_model_can_be_given_by_a_directory_with_a_config_json(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_32B))
    document = json.loads(
        run("--gpu-memory", "32GiB", "--engine-bytes", "18GB", "--model", str(tmp_path), "--json").output
    )
    assert document["bytes_per_token"] == 262_144


def test_the_error_for_an_unknown_model_names_the_known_shapes(tmp_path):
    result = run("--gpu-memory", "32GB", "--engine-bytes", "18GB", "--model", str(tmp_path))
    assert result.exit_code == 2
    assert "a known shape (Qwen3-32B), a config.json, or a directory with one" in " ".join(result.output.split())


def test_gpu_memory_without_a_unit_is_an_error_that_says_what_to_write():
    result = run("--gpu-memory", "24", "--engine-bytes", "18GB")
    assert result.exit_code == 2
    assert "it means 24 bytes; write 24GB or 24GiB" in " ".join(result.output.split())


@pytest.mark.parametrize(
    "arguments",
    [("--gpu-memory", "much"), ("--engine-bytes", "18 apples"), ("--model", "nothing"), ("--kv-type", "fp4")],
)
def test_the_error_for_an_invalid_option_quotes_its_value(arguments):
    options = {"--gpu-memory": "32GB", "--engine-bytes": "18GB"} | dict([arguments])
    result = run(*[word for option in options.items() for word in option])
    assert result.exit_code == 2
    assert arguments[1] in result.output


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"])
@pytest.mark.parametrize("value", ["two", -8, 0, 1.5, True, [8]])
def test_the_error_for_an_invalid_number_in_a_configuration_names_it(tmp_path, name, value):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(QWEN3_32B | {name: value}))
    result = run("--gpu-memory", "32GB", "--engine-bytes", "18GB", "--model", str(config))
    assert result.exit_code == 2
    expected = f"{name} in the model's configuration must be an integer of 1 or more, not {value!r}"
    assert expected in " ".join(result.output.split())


def test_two_gpus_share_each_layer_and_the_weights():
    options = ("--gpu-memory", "141GB", "--weights", "w4a8", "--max-batch-size", "64", "--tensor-parallel", "2")
    document = json.loads(run(*options, "--json").output)
    assert (document["num_gpus"], document["layers_per_gpu"], document["kv_heads_per_gpu"]) == (2, 64, 4)
    assert (document["num_layers"], document["num_kv_heads"]) == (64, 8)
    assert document["bytes_per_token"] == 131_072
    assert document["engine_bytes"] == 10_332_405_760
    assert document["holds"] is True
    text = " ".join(run(*options).output.split())
    assert "each of 2 GPUs" in text
    assert "4 bits, and 8 bytes for 128 weights" in text


def test_groups_of_gpus_share_the_layers_and_the_engines_bytes():
    options = ("--gpu-memory", "32GB", "--engine-bytes", "40GB", "--tensor-parallel", "2", "--pipeline-parallel", "3")
    document = json.loads(run(*options, "--json").output)
    assert (document["num_gpus"], document["layers_per_gpu"]) == (6, 22)
    assert document["engine_bytes"] == 6_666_666_667
    assert "40GB ÷ 6 GPUs" in run(*options).output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "give either --engine-bytes or --weights"),
        (("--engine-bytes", "18GB", "--weights", "w4a8"), "give either --engine-bytes or --weights"),
        (("--weights", "int3"), "--weights int3 is not one of bf16, fp8, w4a8, w4a16"),
        (("--weights", "w4a8", "--tensor-parallel", "3"), "64 attention heads can't be split over 3 GPUs"),
        (("--weights", "w4a8", "--pipeline-parallel", "65"), "64 layers can't be split over 65"),
    ],
)
def test_an_engine_that_can_not_be_planned_is_an_error(arguments, reason):
    result = run("--gpu-memory", "141GB", *arguments)
    assert result.exit_code == 2
    assert reason in " ".join(result.output.split())
