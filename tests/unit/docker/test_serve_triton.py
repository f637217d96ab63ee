"""docker/serve_triton.sh: its mounts, its ports, and the errors that it reports without calling Docker."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "docker" / "serve_triton.sh"


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "repo").mkdir()
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    (tmp_path / "schemas").mkdir()
    for name in ("model.plan", "tokenizer_info.json", "manifest.json"):
        (tmp_path / name).write_text("{}")
    return {
        "ENGINE_PATH": str(tmp_path / "model.plan"),
        "MODEL_REPO": str(tmp_path / "repo"),
        "TOKENIZER_DIR": str(tmp_path / "tokenizer"),
        "TOKENIZER_INFO": str(tmp_path / "tokenizer_info.json"),
    }


def dry_run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    path = {"PATH": os.environ["PATH"], "TRITON_GPUS": "none"}
    return subprocess.run(
        [str(SCRIPT), "--dry-run", *arguments], env=path | environment, capture_output=True, text=True, check=False
    )


def command(environment: dict[str, str], *arguments: str) -> list[str]:
    done = dry_run(environment, *arguments)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


def mounts_of(words: list[str]) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == "--volume"]


def test_an_engine_file_is_mounted_as_the_plan_and_as_rank_0_of_tensorrt_llm(paths, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    mounts = mounts_of(command(paths))
    assert f"{paths['ENGINE_PATH']}:/workspace/release/engine.plan:ro" in mounts
    assert f"{paths['ENGINE_PATH']}:/workspace/engine/rank0.engine:ro" in mounts
    assert f"{tmp_path}/config.json:/workspace/engine/config.json:ro" in mounts


def test_an_engine_directory_is_mounted_in_the_release_and_for_tensorrt_llm(paths, tmp_path):
    (tmp_path / "engine").mkdir()
    words = command(paths | {"ENGINE_PATH": str(tmp_path / "engine")})
    assert f"{tmp_path}/engine:/workspace/release/engine:ro" in words
    assert f"{tmp_path}/engine:/workspace/engine:ro" in words


def test_all_files_are_mounted_read_only_and_only_the_state_is_writable(paths):
    mounts = mounts_of(command(paths))
    assert f"{paths['TOKENIZER_DIR']}:/workspace/release/tokenizer:ro" in mounts
    assert f"{paths['TOKENIZER_INFO']}:/workspace/release/tokenizer_info.json:ro" in mounts
    assert f"{paths['MODEL_REPO']}:/workspace/model_repository:ro" in mounts
    assert [mount for mount in mounts if not mount.endswith(":ro")] == ["llmstack-state-8000:/var/lib/llmstack"]


def test_the_paths_in_tensorrt_llms_configuration_are_mounted(paths):
    targets = {mount.rsplit(":", 2)[1]: mount.rsplit(":", 2)[0] for mount in mounts_of(command(paths))}
    assert targets["/workspace/tokenizer/tokenizer.json"] == f"{paths['TOKENIZER_DIR']}/tokenizer.json"
    assert targets["/workspace/tokenizer/tokenizer_info.json"] == paths["TOKENIZER_INFO"]
    config = (SCRIPT.parents[1] / "model_repository" / "tensorrt_llm" / "config.pbtxt").read_text()
    for name in ("/workspace/tokenizer/tokenizer_info.json", "/workspace/engine", "/workspace/tokenizer"):
        assert f'"{name}"' in config
        assert any(target.startswith(name) for target in targets)


def test_ports_image_and_arguments_are_passed_to_docker(paths):
    ports = {"TRITON_HTTP_PORT": "9000", "TRITON_GRPC_PORT": "9001", "TRITON_METRICS_PORT": "9002"}
    ports["TRITON_OPENAI_PORT"] = "9005"
    words = command(paths | ports | {"TRITON_IMAGE": "registry.example/llmstack:2"}, "--engine", "echo")
    assert [words[i + 1] for i, word in enumerate(words) if word == "--publish"] == [
        "127.0.0.1:9000:8000",
        "127.0.0.1:9001:8001",
        "127.0.0.1:9002:8002",
        "127.0.0.1:9005:8005",
    ]
    assert words[-3:] == ["registry.example/llmstack:2", "--engine", "echo"]


@pytest.mark.parametrize("arguments", [("--engine", "vllm"), ("--engine=vllm",), ()])
def test_vllm_gets_its_image_a_larger_shared_memory_and_the_model_without_tensorrt_llms_mounts(
    paths, tmp_path, arguments
):
    (tmp_path / "model").mkdir()
    environment = paths | {"ENGINE_PATH": str(tmp_path / "model"), "LLMSTACK_ENGINE_OPTIONS": "tensor_parallel_size=2"}
    words = command(environment | ({} if arguments else {"LLMSTACK_ENGINE": "vllm"}), *arguments)
    assert "llmstack-vllm" in words
    assert words[words.index("--shm-size") + 1] == "8g"
    assert "LLMSTACK_ENGINE_OPTIONS=tensor_parallel_size=2" in words
    assert ("LLMSTACK_ENGINE=vllm" in words) == (not arguments)
    targets = [mount.split(":")[1] for mount in mounts_of(words)]
    assert "/workspace/release/engine" in targets
    assert not [target for target in targets if target.startswith(("/workspace/engine", "/workspace/tokenizer"))]


def test_an_engine_of_the_arguments_goes_before_the_variable(paths):
    words = command(paths | {"LLMSTACK_ENGINE": "vllm", "TRITON_SHM_SIZE": "2g"}, "--engine", "echo")
    assert words[-3:] == ["llmstack", "--engine", "echo"]
    assert words[words.index("--shm-size") + 1] == "2g"


@pytest.mark.parametrize("engine", ["vllm", "trtllm-api"])
def test_a_single_engine_file_is_an_error_for_engines_that_read_a_model(paths, engine):
    done = dry_run(paths, "--engine", engine)
    assert done.returncode == 2
    assert f"set ENGINE_PATH to the model's directory for {engine}" in done.stderr


def test_ports_are_published_on_localhost_unless_an_address_is_given(paths):
    assert "127.0.0.1:8000:8000" in command(paths)
    for address in ("0.0.0.0", "[::1]"):
        assert f"{address}:8000:8000" in command(paths | {"TRITON_BIND_ADDRESS": address})
    assert dry_run(paths | {"TRITON_BIND_ADDRESS": "everywhere"}).returncode == 2


@pytest.mark.parametrize(
    ("address", "given", "expected"),
    [
        ("127.0.0.1", "", "0"),
        ("[::1]", "", "0"),
        ("127.0.0.1", "1", "1"),
        ("0.0.0.0", "", None),
        ("10.0.0.1", "0", "0"),
    ],
)
def test_api_keys_are_left_out_by_default_only_where_the_ports_are_published_on_loopback(
    paths, address, given, expected
):
    words = command(paths | {"TRITON_BIND_ADDRESS": address, "LLMSTACK_REQUIRE_API_KEYS": given})
    values = [word.partition("=")[2] for word in words if word.startswith("LLMSTACK_REQUIRE_API_KEYS=")]
    assert values == ([] if expected is None else [expected])


def test_a_dry_run_prints_the_command_that_docker_gets(paths, tmp_path):
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\n[ "$1" = run ] || { echo llm-serving-stack; exit; }\nprintf "%s\\n" docker "$@"\n')
    docker.chmod(0o755)
    environment = paths | {"PATH": f"{docker.parent}:{os.environ['PATH']}", "TRITON_GPUS": "all"}
    done = subprocess.run(
        [str(SCRIPT), "--engine", "echo"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:-1] == command(environment, "--engine", "echo")


def test_gpus_are_all_of_the_machine_or_those_in_the_variable(paths, tmp_path):
    assert "--gpus" not in command(paths)
    words = command(paths | {"TRITON_GPUS": "device=1"})
    assert words[words.index("--gpus") + 1] == "device=1"
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\n")
    smi.chmod(0o755)
    words = command(paths | {"TRITON_GPUS": "", "PATH": f"{smi.parent}:{os.environ['PATH']}"})
    assert words[words.index("--gpus") + 1] == "all"


def test_the_root_is_read_only_and_all_capabilities_are_dropped(paths):
    words = command(paths)
    assert "--read-only" in words
    assert words[words.index("--cap-drop") + 1] == "ALL"
    assert "--privileged" not in words


@pytest.mark.parametrize("name", ["ENGINE_PATH", "MODEL_REPO", "TOKENIZER_DIR", "TOKENIZER_INFO"])
def test_a_missing_path_is_an_error_that_names_the_variable(paths, name):
    done = dry_run(paths | {name: "/nowhere"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {name} is /nowhere, which does not exist\nnext:")


def test_without_an_engine_path_the_error_names_the_default(paths):
    del paths["ENGINE_PATH"]
    assert "artifacts/engines/qwen3-32b-w4a8.plan, which does not exist" in dry_run(paths).stderr


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1", "80 80", "$(id)"])
def test_an_invalid_port_is_an_error(paths, port):
    done = dry_run(paths | {"TRITON_HTTP_PORT": port})
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, f"error: TRITON_HTTP_PORT is {port}")


def test_a_path_with_spaces_stays_one_argument(paths, tmp_path):
    odd = tmp_path / "my engines"
    odd.mkdir()
    (odd / "a b.plan").write_text("{}")
    assert f"{odd}/a b.plan:/workspace/release/engine.plan:ro" in command(paths | {"ENGINE_PATH": f"{odd}/a b.plan"})
