"""Checks of the engine process, with real Pythons and a fake nvidia-smi."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from llmstack.diagnostics.check_result import CheckStatus
from llmstack.diagnostics.engine_process_checks import PACKAGES, check_engine_options, check_engine_process
from llmstack.diagnostics.engine_python import read_engine_python
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.command import ENGINES

H200 = "NVIDIA H200, 143771, 4, 580.95"


@pytest.fixture
def engine_python(tmp_path, monkeypatch):
    """Makes the engine's Python one that finds this environment's packages and the given ones besides."""

    def put(**versions):
        site = tmp_path / "engine-site"
        for name, version in versions.items():
            (site / name).mkdir(parents=True)
            (site / name / "__init__.py").touch()
            metadata = site / f"{name}-{version}.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        program = tmp_path / "python"
        program.write_text(f'#!/bin/sh\nPYTHONPATH=$PYTHONPATH:{site} exec {sys.executable} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("LLMSTACK_ENGINE_PYTHON", str(program))
        return program

    return put


@pytest.mark.parametrize("engine", ["embedded", "echo"])
def test_the_engines_python_is_this_one_unless_the_variable_names_another(deployment, monkeypatch, engine):
    monkeypatch.delenv("LLMSTACK_ENGINE_PYTHON", raising=False)
    result = check_engine_process(deployment._replace(engine=engine))
    assert result.status is CheckStatus.OK
    assert result.text.startswith(f"{sys.executable}, Python {sys.version_info[0]}.{sys.version_info[1]}.")


def test_an_engine_inside_tritonserver_has_no_process(deployment):
    assert check_engine_process(deployment._replace(engine="tensorrtllm")).status is CheckStatus.SKIPPED


@pytest.mark.parametrize("program", ["/nowhere/python", "/bin/false"])
def test_a_python_that_does_not_run_fails(deployment, monkeypatch, program):
    monkeypatch.setenv("LLMSTACK_ENGINE_PYTHON", program)
    result = check_engine_process(deployment._replace(engine="echo"))
    assert (result.status, program in result.text) == (CheckStatus.FAIL, True)
    assert "LLMSTACK_ENGINE_PYTHON" in result.next_step


def test_a_python_without_msgspec_fails(deployment, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {Path(sys.executable).resolve()} -S "$@"\n')  # no site-packages
    program.chmod(0o755)
    monkeypatch.setenv("LLMSTACK_ENGINE_PYTHON", str(program))
    monkeypatch.delenv("PYTHONHOME", raising=False)
    result = check_engine_process(deployment._replace(engine="echo"))
    assert (result.status, "can't import msgspec" in result.text) == (CheckStatus.FAIL, True)


def test_another_python_does_not_see_the_path_of_this_one(engine_python, tmp_path, monkeypatch):
    (tmp_path / "leaked" / "vllm").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "leaked"))
    engine_python()
    assert "vllm" not in read_engine_python().packages


@pytest.mark.parametrize(
    ("engine", "package", "version", "status", "text"),
    [
        ("vllm", "vllm", "0.24.0", CheckStatus.OK, "vllm 0.24.0"),
        ("vllm", "vllm", "0.27.1", CheckStatus.WARN, "written for vllm 0.24"),
        ("vllm", "vllm", "0.10.2", CheckStatus.FAIL, "vllm before 0.11 is not supported"),
        ("vllm", "tensorrt_llm", "1.2.0", CheckStatus.FAIL, "does not find vllm"),
        ("trtllm-api", "tensorrt_llm", "1.2.0", CheckStatus.OK, "tensorrt_llm 1.2.0"),
        ("trtllm-api", "tensorrt_llm", "1.3.0", CheckStatus.WARN, "written for tensorrt_llm 1.2"),
        ("trtllm-api", "vllm", "0.24.0", CheckStatus.FAIL, "does not find tensorrt_llm"),
    ],
)
def test_the_engines_package_is_found_in_the_version_of_the_adapter(
    deployment, engine_python, engine, package, version, status, text
):
    program = engine_python(**{package: version})
    result = check_engine_process(deployment._replace(engine=engine))
    assert (result.status, text in result.text, str(program) in result.text) == (status, True, True)


def test_every_engine_with_a_process_says_what_it_needs():
    assert PACKAGES.keys() == {name for name, engine in ENGINES.items() if engine.has_process}


@pytest.fixture
def vllm(deployment, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return lambda *options: check_engine_options(deployment._replace(engine="vllm", engine_options=options))


def test_one_gpu_is_needed_for_each_rank(vllm, nvidia_smi, monkeypatch):
    nvidia_smi(H200, H200, H200)
    assert vllm() == (
        "engine options",
        CheckStatus.OK,
        "1 of 3 GPUs: tensor_parallel_size=1 × pipeline_parallel_size=1",
        "",
    )
    assert vllm("tensor_parallel_size=2").status is CheckStatus.OK
    result = vllm("tensor_parallel_size=2", "pipeline_parallel_size=2")
    assert (result.status, result.text.startswith("4 of 3 GPUs")) == (CheckStatus.FAIL, True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert vllm("tensor_parallel_size=2").status is CheckStatus.FAIL


def test_the_ranks_of_other_nodes_need_no_gpu_here(vllm, nvidia_smi):
    nvidia_smi(H200, H200)
    assert vllm("tensor_parallel_size=2", "pipeline_parallel_size=2", "nnodes=2").status is CheckStatus.OK
    ray = ("tensor_parallel_size=2", "pipeline_parallel_size=2", "distributed_executor_backend=ray")
    assert vllm(*ray).status is CheckStatus.WARN


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("tensor_parallel_size=two", "tensor_parallel_size=two is not an integer"),
        ("pipeline_parallel_size=0", "pipeline_parallel_size=0 is not an integer"),
        ("tensor_parallel", "is not KEY=VALUE"),
        ("tensor_paralel_size=2", "vllm takes no option tensor_paralel_size"),
        ("worker_cls=x.Y", "vllm takes no option worker_cls"),
    ],
)
def test_an_option_that_the_engine_does_not_take_fails(vllm, option, text):
    result = vllm(option)
    assert (result.status, text in result.text) == (CheckStatus.FAIL, True)
    assert result.next_step


def test_an_unknown_option_is_answered_with_a_similar_one(vllm):
    assert vllm("tensor_paralel_size=2").next_step == "did you mean tensor_parallel_size?"


def test_attention_heads_must_be_divisible_by_the_tensor_parallel_size(deployment, tmp_path, nvidia_smi):
    nvidia_smi(*[H200] * 8)
    release = tmp_path / "release"
    shutil.copytree(DEFAULT_RELEASE_DIR, release)
    (release / "engine" / "config.json").write_text(json.dumps({"num_attention_heads": 64}))
    vllm = deployment._replace(engine="vllm", release_dir=release)
    assert check_engine_options(vllm._replace(engine_options=("tensor_parallel_size=8",))).status is CheckStatus.OK
    result = check_engine_options(vllm._replace(engine_options=("tensor_parallel_size=6",)))
    assert (result.status, "64 attention heads" in result.text) == (CheckStatus.FAIL, True)


def test_options_for_an_engine_without_any_fail(deployment):
    assert check_engine_options(deployment).status is CheckStatus.SKIPPED
    result = check_engine_options(deployment._replace(engine_options=("tensor_parallel_size=2",)))
    assert (result.status, result.text) == (CheckStatus.FAIL, "embedded takes no option tensor_parallel_size")
