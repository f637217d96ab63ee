"""Checks of the engine and what it needs, on real files and a fake nvidia-smi."""

import json
import shutil

import pytest

from llmstack.capacity.model_shapes import QWEN3_32B
from llmstack.diagnostics.check_result import CheckStatus
from llmstack.diagnostics.engine_checks import (
    check_engine,
    check_gpu,
    check_image,
    check_memory,
    check_mounts,
    check_release,
)
from llmstack.diagnostics.image_tag import VLLM_SUFFIX, ImageTag
from llmstack.paths import DEFAULT_RELEASE_DIR


def test_an_old_image_fails_for_tensorrt_llm_and_is_a_warning_for_the_embedded_engine(deployment):
    old = deployment._replace(image=ImageTag(24, 5))
    assert check_image(old).status is CheckStatus.WARN
    assert check_image(old._replace(engine="tensorrtllm")).status is CheckStatus.FAIL


def test_the_tag_is_read_from_the_image_that_the_doctor_runs_in(deployment, monkeypatch, install):
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "25.10")
    install("tensorrt_llm", "1.0.0")
    assert check_image(deployment).text.startswith("25.10-trtllm-python-py3: TensorRT-LLM 1.0:")


def test_the_installed_tensorrt_llm_overrides_the_tag(deployment, monkeypatch, install):
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "25.10")
    install("tensorrt_llm", "0.9.0")
    assert check_image(deployment._replace(engine="tensorrtllm")).status is CheckStatus.FAIL


def test_an_image_without_tensorrt_llm_is_recognised(deployment, monkeypatch):
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "25.10")
    result = check_image(deployment._replace(engine="tensorrtllm"))
    assert result.status is CheckStatus.FAIL
    assert result.text.startswith("25.10-py3: no TensorRT-LLM")


def test_a_feature_that_may_be_missing_is_a_warning(deployment):
    result = check_image(deployment._replace(image=ImageTag(25, 4)))
    assert (result.status, "perhaps no guided decoding" in result.text) == (CheckStatus.WARN, True)


def test_another_vllm_than_the_adapters_is_a_warning_and_an_image_without_vllm_fails_for_that_engine(deployment):
    vllm = deployment._replace(engine="vllm", image=ImageTag(26, 7, VLLM_SUFFIX))
    assert check_image(vllm) == ("image", CheckStatus.OK, "26.07-vllm-python-py3: vLLM 0.24: the adapter's version", "")
    assert check_image(vllm._replace(image=ImageTag(26, 8, VLLM_SUFFIX))).status is CheckStatus.WARN
    for image in (ImageTag(26, 7), ImageTag(25, 10, VLLM_SUFFIX)):
        assert check_image(vllm._replace(image=image)).status is CheckStatus.FAIL
    assert check_image(vllm._replace(engine="tensorrtllm")).status is CheckStatus.FAIL


def test_an_image_with_vllm_is_recognised_and_may_be_without_when_the_engines_python_has_it(
    deployment, monkeypatch, install
):
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "26.07")
    assert check_image(deployment._replace(engine="vllm")).status is CheckStatus.WARN
    install("vllm", "0.24.0")
    assert check_image(deployment._replace(engine="vllm")).text.startswith("26.07-vllm-python-py3: vLLM 0.24:")


def test_an_old_transformers_fails_only_the_embedded_engine(deployment, install):
    install("transformers", "4.38.2")
    result = check_engine(deployment)
    assert result.status is CheckStatus.FAIL
    assert "transformers 4.38 is older than 4.53" in result.text
    assert "TensorRT-LLM is not affected" in result.text
    assert check_engine(deployment._replace(engine="tensorrtllm")).status is CheckStatus.OK


@pytest.mark.parametrize("version", ["4.53.1", "4.57.1", "5.20.2"])
def test_the_embedded_engine_runs_on_the_transformers_versions_of_the_images(deployment, install, version):
    install("transformers", version)
    assert check_engine(deployment).status is CheckStatus.OK


def test_a_missing_gpu_fails_only_an_engine_that_needs_one(deployment, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert check_gpu(deployment).status is CheckStatus.SKIPPED
    for engine in ("tensorrtllm", "vllm", "trtllm-api"):
        assert check_gpu(deployment._replace(engine=engine)).status is CheckStatus.FAIL


def test_a_gpu_is_reported_with_its_memory_and_driver(deployment, nvidia_smi):
    nvidia_smi("NVIDIA GeForce RTX 5090, 32607, 30000, 580.95")
    result = check_gpu(deployment._replace(engine="tensorrtllm"))
    assert result.status is CheckStatus.WARN  # 8 % free
    assert "RTX 5090, 32,607 MiB, 8% free; driver 580.95" in result.text


def test_every_gpu_is_checked(deployment, nvidia_smi):
    nvidia_smi("NVIDIA H100, 81559, 4, 580.95", "NVIDIA H100, 81559, 81000, 580.95")
    assert check_gpu(deployment._replace(engine="tensorrtllm")).status is CheckStatus.WARN


def test_a_gpu_that_does_not_report_its_memory_is_named(deployment, nvidia_smi):
    nvidia_smi("NVIDIA GB10, [N/A], [N/A], 580.95")
    result = check_gpu(deployment._replace(engine="tensorrtllm"))
    assert (result.status, result.text) == (CheckStatus.OK, "NVIDIA GB10, memory unknown; driver 580.95")


def test_an_old_driver_fails_for_a_geforce_and_is_a_warning_for_a_data_centre_gpu(deployment, nvidia_smi, monkeypatch):
    monkeypatch.setenv("CUDA_VERSION", "13.0.1")
    for name, status in (("NVIDIA GeForce RTX 5090", CheckStatus.FAIL), ("NVIDIA H100", CheckStatus.WARN)):
        nvidia_smi(f"{name}, 32607, 4, 570.10")
        result = check_gpu(deployment._replace(engine="tensorrtllm"))
        assert (result.status, "older than 580" in result.text) == (status, True)


def test_a_batch_that_does_not_fit_beside_the_engine_is_a_warning(deployment, tmp_path, nvidia_smi):
    release = tmp_path / "release"
    shutil.copytree(DEFAULT_RELEASE_DIR, release)
    shutil.rmtree(release / "engine")
    (release / "engine").mkdir()
    shape = {"num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8, "head_size": 128}
    config = {"pretrained_config": {**shape, "quantization": {"kv_cache_quant_algo": "FP8"}}}
    (release / "engine" / "config.json").write_text(json.dumps(config))
    tensorrt = deployment._replace(engine="tensorrtllm", release_dir=release)
    for total_mib, status in ((32607, CheckStatus.OK), (5000, CheckStatus.WARN)):
        nvidia_smi(f"NVIDIA GeForce RTX 5090, {total_mib}, 4, 580.95")
        result = check_memory(tensorrt)
        assert (result.status, "requests of 6,000 tokens fit" in result.text) == (status, True)
    (release / "engine" / "config.json").write_text("{")
    assert check_memory(tensorrt).status is CheckStatus.WARN
    assert check_memory(deployment).status is CheckStatus.SKIPPED


def test_each_gpu_of_vllm_holds_a_part_of_the_weights_and_of_the_cache(deployment, tmp_path, nvidia_smi):
    release = tmp_path / "release"
    shutil.copytree(DEFAULT_RELEASE_DIR, release)
    shutil.rmtree(release / "engine")
    (release / "engine").mkdir()
    (release / "engine" / "config.json").write_text(json.dumps(QWEN3_32B))
    with (release / "engine" / "model.safetensors").open("wb") as weights:
        weights.truncate(18 * 10**9)  # a sparse file
    nvidia_smi(*["NVIDIA GeForce RTX 4090, 24564, 4, 580.95"] * 2)
    vllm = deployment._replace(engine="vllm", release_dir=release)
    result = check_memory(vllm)
    assert (result.status, "beside an engine of 18.0 GB" in result.text) == (CheckStatus.WARN, True)
    result = check_memory(vllm._replace(engine_options=("tensor_parallel_size=2",)))
    assert (result.status, "beside an engine of 9.0 GB" in result.text) == (CheckStatus.OK, True)
    assert check_memory(vllm._replace(engine_options=("tensor_parallel_size=two",))).status is CheckStatus.WARN


def test_the_models_and_the_files_tensorrt_llm_must_be_mounted(deployment, tmp_path):
    assert check_mounts(deployment).status is CheckStatus.OK
    assert "ensemble" in check_mounts(deployment._replace(model_repository=tmp_path)).text
    result = check_mounts(deployment._replace(engine="tensorrtllm"))
    assert result.status is CheckStatus.FAIL
    assert "/workspace/tokenizer/tokenizer_info.json" in result.text


def test_an_intact_release_is_reported_with_its_engine_hash(deployment):
    result = check_release(deployment)
    assert result.status is CheckStatus.OK
    assert "engine sha256:" in result.text


def test_a_changed_file_of_the_release_fails(deployment, tmp_path):
    release = tmp_path / "release"
    shutil.copytree(DEFAULT_RELEASE_DIR, release)
    (release / "engine" / "config.json").write_text("{}")
    result = check_release(deployment._replace(release_dir=release))
    assert result.status is CheckStatus.FAIL
    assert "engine" in result.text
