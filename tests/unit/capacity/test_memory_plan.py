"""How many requests fit: the issue's own figures, and the laws behind them."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from llmstack.capacity.memory_plan import CapacityError, KvShape, MemoryPlan, parse_size
from llmstack.capacity.model_shapes import QWEN3_32B
from llmstack.cli.app import app

SIZES = st.integers(1, 10**12)


def run(*arguments: str):
    return CliRunner().invoke(app, ["capacity", *arguments])


def test_a_token_of_qwen3_32b_keeps_a_key_and_a_value_in_every_layer_and_key_head():
    assert KvShape.of(QWEN3_32B) == KvShape(64, 8, 128)
    assert KvShape.of(QWEN3_32B).bytes_per_token(1) == 131_072
    assert KvShape.of(QWEN3_32B).bytes_per_token(2) == 262_144


def test_four_requests_of_6000_tokens_fit_beside_an_engine_of_18_gb_in_32_gb():
    result = run("--gpu-memory", "32GB", "--engine-bytes", "18GB", "--model", "Qwen3-32B", "--json")
    document = json.loads(result.output)
    assert result.exit_code == 0
    assert (document["bytes_per_request"], document["free_bytes"]) == (1_572_864_000, 12_000_000_000)
    assert (document["num_requests"], document["holds"]) == (5, True)


def test_a_batch_that_does_not_fit_exits_with_1_and_says_so():
    result = run("--gpu-memory", "24GB", "--engine-bytes", "18GB", "--kv-type", "bf16")
    assert result.exit_code == 1
    assert "a batch of 4 does not fit" in " ".join(result.output.split())


def test_a_models_own_configuration_is_read(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}))
    document = json.loads(run("--gpu-memory", "1GB", "--engine-bytes", "0", "--model", str(config), "--json").output)
    assert document["bytes_per_token"] == 2 * 2 * 4 * 16 * 2


@pytest.mark.parametrize(
    "arguments",
    [("--gpu-memory", "much"), ("--engine-bytes", "18 apples"), ("--model", "nothing"), ("--kv-type", "fp4")],
)
def test_a_bad_question_is_refused_with_what_is_wrong(arguments):
    options = {"--gpu-memory": "32GB", "--engine-bytes": "18GB"} | dict([arguments])
    result = run(*[word for option in options.items() for word in option])
    assert result.exit_code == 2
    assert arguments[1] in result.output


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"])
@pytest.mark.parametrize("value", ["two", -8, 0, 1.5, True, [8]])
def test_a_configuration_with_a_bad_figure_is_refused_by_its_name(tmp_path, name, value):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(QWEN3_32B | {name: value}))
    result = run("--gpu-memory", "32GB", "--engine-bytes", "18GB", "--model", str(config))
    assert result.exit_code == 2
    assert f"no {name} of 1 or more, but {value!r}" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("text", "size"), [("32GB", 32 * 10**9), ("32GiB", 32 * 2**30), ("1.5gb", 1_500_000_000), ("7", 7), ("0.5KiB", 512)]
)
def test_a_unit_is_decimal_or_binary_as_it_is_written(text, size):
    assert parse_size(text) == size


@given(st.text(max_size=12))
def test_a_size_is_read_or_refused(text):
    try:
        assert parse_size(text) >= 0
    except CapacityError as error:
        assert "is no size" in str(error)


@given(SIZES, SIZES, SIZES, st.integers(1, 10**6), st.integers(1, 10_000), st.integers(1, 64), st.fractions(0, 0.9))
def test_what_is_said_to_fit_leaves_the_headroom(gpu, engine, reserved, per_token, tokens, batch, headroom):
    plan = MemoryPlan(gpu, engine, reserved, per_token, tokens, batch, headroom)
    taken = plan.num_requests * plan.bytes_per_request
    assert taken <= max(0, plan.free_bytes) * (1 - headroom)
    assert taken + plan.bytes_per_request > plan.usable_bytes
    if plan.holds:
        assert plan.actual_headroom >= float(headroom) - 1e-9


@given(SIZES, st.integers(1, 10**6), st.integers(1, 10_000))
def test_more_memory_never_holds_less(gpu, per_token, tokens):
    small, large = (
        MemoryPlan(size, 0, 0, per_token, tokens, 1, Fraction(1, 4)).num_requests for size in (gpu, gpu + 10**9)
    )
    assert small <= large
