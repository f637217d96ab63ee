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
