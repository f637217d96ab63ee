"""How vLLM is started: its arguments from the release and the operator, its environment."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from engine_process.engine import EngineLoadError
from engine_process.engines.vllm_options import ALLOWED, CHOICES, FIXED, engine_arguments, set_environment
from tests.unit.engine_process.engines.release_directory import write_release
from tests.unit.engine_process.engines.vllm_stand_in import IS_REAL, SHAPES, argument_types


@pytest.fixture(scope="module")
def arguments_type() -> type:
    if IS_REAL:
        from vllm.engine.arg_utils import AsyncEngineArgs

        return AsyncEngineArgs
    fields = [(name, annotation, dataclasses.field(default=None)) for name, annotation in argument_types().items()]
    return dataclasses.make_dataclass("AsyncEngineArgs", fields)


def test_the_release_gives_model_tokenizer_batch_and_backend(tmp_path, arguments_type):
    made = engine_arguments(write_release(tmp_path), "llguidance", arguments_type)

    assert made == {
        "model": str(tmp_path / "engine"),
        "tokenizer": str(tmp_path / "tokenizer"),
        "max_num_seqs": 9,  # the canary's lane is one more
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
        "generation_config": "vllm",
        "trust_remote_code": False,
        "disable_log_stats": False,
        "enable_log_requests": False,
    }


def test_options_are_vllms_own_arguments_with_their_types(tmp_path, arguments_type):
    options = {
        "tensor_parallel_size": "2",
        "gpu_memory_utilization": "0.85",
        "kv_cache_dtype": "fp8",
        "enable_prefix_caching": "false",
        "load_format": "dummy",
        "distributed_executor_backend": "mp",
        "quantization": "compressed-tensors",
        "cudagraph_capture_sizes": "1,2,4",
    }
    settings = write_release(tmp_path, options=options)

    made = engine_arguments(settings, "xgrammar", arguments_type)

    assert made["structured_outputs_config"]["backend"] == "xgrammar"
    assert {name: made[name] for name in settings.options} == {
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.85,
        "kv_cache_dtype": "fp8",
        "enable_prefix_caching": False,
        "load_format": "dummy",
        "distributed_executor_backend": "mp",
        "quantization": "compressed-tensors",
        "cudagraph_capture_sizes": [1, 2, 4],
    }


@pytest.mark.parametrize("name", FIXED)
def test_an_argument_that_the_adapter_sets_or_that_loads_code_is_refused(name, tmp_path, arguments_type):
    with pytest.raises(EngineLoadError, match=f"option {name} can't be set: "):
        engine_arguments(write_release(tmp_path, options={name: "1"}), "llguidance", arguments_type)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tensor_paralel_size", "2"),
        ("tensor_parallel_size", "two"),
        ("kv_cache_dtype", "fp4"),
        ("load_format", "tensorizer"),
        ("distributed_executor_backend", "somewhere.Executor"),
        ("attention_backend", "NONE_SUCH"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(name, value, tmp_path, arguments_type):
    with pytest.raises(EngineLoadError, match=f"option {name} .*allowed: "):
        engine_arguments(write_release(tmp_path, options={name: value}), "llguidance", arguments_type)


def test_every_allowed_option_can_be_written_on_a_command_line(tmp_path, arguments_type):
    samples = ("2", "0.5", "true", "auto", "mp", "raw_logprobs", "sha256", "eager", "FLASH_ATTN", "O2", "balanced")
    for name in ALLOWED:
        accepted = [value for value in samples if _is_accepted(tmp_path, name, value, arguments_type)]
        assert accepted, name


def _is_accepted(directory, name: str, value: str, arguments_type: Any) -> bool:
    try:
        engine_arguments(write_release(directory, options={name: value}), "llguidance", arguments_type)
    except EngineLoadError:
        return False
    return True


def test_vllm_has_every_argument_that_is_named_here():
    assert set(SHAPES["AsyncEngineArgs"]) == {*ALLOWED, *FIXED}
    assert set(CHOICES) <= set(ALLOWED)


def test_a_vllm_without_a_needed_argument_is_refused(tmp_path):
    old = dataclasses.make_dataclass("AsyncEngineArgs", ["model", "tokenizer", "max_num_seqs"])

    with pytest.raises(EngineLoadError, match="this vLLM has no arguments disable_log_stats, enable_log_requests,"):
        engine_arguments(write_release(tmp_path), "llguidance", old)


def test_vllm_reports_nothing_and_downloads_nothing():
    environment: dict[str, str] = {}

    set_environment(environment)

    assert environment["VLLM_NO_USAGE_STATS"] == environment["HF_HUB_OFFLINE"] == "1"
    assert environment["VLLM_PLUGINS"] == ""
    assert "VLLM_CACHE_ROOT" not in environment


def test_the_caches_of_vllm_are_in_the_state_directory_unless_the_operator_says_where():
    environment = {"LLMSTACK_STATE_DIR": "/var/lib/llmstack"}
    set_environment(environment)
    assert environment["VLLM_CACHE_ROOT"] == "/var/lib/llmstack/vllm_cache"

    environment = {"LLMSTACK_STATE_DIR": "/var/lib/llmstack", "VLLM_CACHE_ROOT": "/cache"}
    set_environment(environment)
    assert environment["VLLM_CACHE_ROOT"] == "/cache"
