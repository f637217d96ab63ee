"""How TensorRT-LLM's LLM is started: its arguments from the release and the operator, its environment."""

from __future__ import annotations

import pytest

from engine_process.engine import EngineLoadError
from engine_process.engines.trtllm_options import (
    FIXED,
    engine_arguments,
    field_types,
    read_model_size,
    set_environment,
)
from tests.unit.engine_process.engines.trtllm_stand_in import KvCacheConfig, TorchLlmArgs, write_trtllm_release


def arguments(directory, **options):
    settings = write_trtllm_release(directory, options=options)
    return engine_arguments(settings, "llguidance", 64, field_types(TorchLlmArgs), KvCacheConfig)


def test_the_release_gives_model_tokenizer_batch_and_backend(tmp_path):
    assert arguments(tmp_path) == {
        "model": str(tmp_path / "engine"),
        "tokenizer": str(tmp_path / "tokenizer"),
        "max_batch_size": 9,
        "max_seq_len": 64,
        "enable_chunked_prefill": True,
        "guided_decoding_backend": "llguidance",
        "return_perf_metrics": True,
        "sampler_type": "TRTLLMSampler",
        "trust_remote_code": False,
    }


def test_options_are_arguments_of_the_llm_and_of_its_kv_cache(tmp_path):
    options = {
        "tensor_parallel_size": "2",
        "max_seq_len": "32",
        "sampler_type": "TorchSampler",
        "kv_cache_config.free_gpu_memory_fraction": "0.8",
        "kv_cache_config.enable_block_reuse": "false",
    }

    made = arguments(tmp_path, **options)

    assert (made["tensor_parallel_size"], made["max_seq_len"], made["sampler_type"]) == (2, 32, "TorchSampler")
    assert made["kv_cache_config"] == KvCacheConfig(free_gpu_memory_fraction=0.8, enable_block_reuse=False)


@pytest.mark.parametrize("name", FIXED)
def test_an_argument_that_the_adapter_sets_or_that_loads_code_is_refused(tmp_path, name):
    with pytest.raises(EngineLoadError, match=f"option {name} can't be set: "):
        arguments(tmp_path, **{name: "1"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tensor_paralel_size", "2"),
        ("tensor_parallel_size", "two"),
        ("load_format", "vision_only"),
        ("sampler_type", "auto"),
        ("kv_cache_config", "{}"),
        ("kv_cache_config.secret", "1"),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(tmp_path, name, value):
    with pytest.raises(EngineLoadError, match=f"option {name} .*allowed: "):
        arguments(tmp_path, **{name: value})


def test_a_package_without_a_needed_argument_is_refused(tmp_path):
    fields = {name: kind for name, kind in field_types(TorchLlmArgs).items() if name != "guided_decoding_backend"}

    with pytest.raises(EngineLoadError, match=r"this TensorRT-LLM has no arguments guided_decoding_backend$"):
        engine_arguments(write_trtllm_release(tmp_path), "llguidance", 64, fields, KvCacheConfig)


def test_the_models_size_is_in_its_configuration(tmp_path):
    engine_dir = write_trtllm_release(tmp_path).engine_dir
    assert read_model_size(engine_dir) == (100, 64)

    (engine_dir / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(EngineLoadError, match=r"config\.json can't be read: KeyError"):
        read_model_size(engine_dir)


def test_the_package_reports_nothing_and_downloads_nothing():
    environment = {"HF_HUB_OFFLINE": "0"}

    set_environment(environment)

    assert environment["TRTLLM_NO_USAGE_STATS"] == "1"
    assert environment["HF_HUB_OFFLINE"] == "0"  # the operator's value stays
