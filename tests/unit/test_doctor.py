"""The doctor: what it says of images, machines and settings, seen on real files, ports and directories."""

import json
import shutil
import socket

import pytest
from typer.testing import CliRunner

from llmstack.cli.app import app
from llmstack.cli.doctor_report import print_findings
from llmstack.diagnostics.check_result import CheckResult, CheckStatus
from llmstack.diagnostics.checks import (
    Subject,
    check_engine,
    check_gpu,
    check_image,
    check_memory,
    check_mounts,
    check_ports,
    check_release,
    check_shared_memory,
    check_state_directory,
    check_webhooks,
)
from llmstack.diagnostics.gpus import Gpu, driver_fault
from llmstack.diagnostics.image_tag import ImageTag, parse_tag
from llmstack.paths import DEFAULT_RELEASE_DIR, MODEL_REPOSITORY
from llmstack.supervision.state_directory import StateDirectory
from tests.webhook_receiver import new_secret, write_secrets


@pytest.fixture
def subject(tmp_path):
    ports = dict.fromkeys(("http", "grpc", "metrics", "ready"), 0)
    return Subject(
        DEFAULT_RELEASE_DIR, "embedded", tmp_path / "state", MODEL_REPOSITORY, "127.0.0.1", ports, None, False, {}
    )


@pytest.mark.parametrize("tag", ["25.09", "25.10", "25.12", "26.02", "26.04", "26.07"])
def test_tags_from_2509_to_2607_can_do_it_all(tag):
    assert parse_tag(f"{tag}-trtllm-python-py3").faults() == []


def test_the_guides_2405_is_refused_with_every_reason():
    faults = "; ".join(parse_tag("nvcr.io/nvidia/tritonserver:24.05-trtllm-python-py3").faults())
    for reason in ("guided decoding at all before TensorRT-LLM 0.16", "0.19", "Qwen3", "1.0", "Blackwell"):
        assert reason in faults


@pytest.mark.parametrize(("tag", "reason"), [("25.05", "Qwen3"), ("25.07", "Qwen3"), ("26.08", "C++ engine backend")])
def test_other_tags_are_refused_with_theirs(tag, reason):
    assert reason in "; ".join(parse_tag(f"{tag}-trtllm-python-py3").faults())


def test_an_image_without_the_backend_is_named():
    assert "have TensorRT-LLM's backend" in ImageTag(25, 10, "py3").faults()[0]


@pytest.mark.parametrize("text", ["", "latest", "25.13-trtllm-python-py3", "tritonserver", "25.10.1", "x:y"])
def test_what_is_no_tag_is_none(text):
    assert parse_tag(text) is None


def test_an_old_image_fails_its_own_engine_and_warns_the_portable_one(subject):
    old = subject._replace(image=ImageTag(24, 5))
    assert check_image(old).verdict is CheckStatus.WARN
    assert check_image(old._replace(engine="tensorrtllm")).verdict is CheckStatus.FAIL


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution's metadata before all others, as an image's packages have them."""

    def put(name, version):
        metadata = tmp_path / "site" / f"{name}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path / "site")

    return put


def test_the_image_says_itself_which_it_is(subject, monkeypatch, install):
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "25.10")
    install("tensorrt_llm", "1.0.0")
    assert check_image(subject).text.startswith("25.10-trtllm-python-py3: TensorRT-LLM 1.0:")


def test_what_is_installed_counts_more_than_the_tag(subject, monkeypatch, install):
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "25.10")
    install("tensorrt_llm", "0.9.0")
    assert check_image(subject._replace(engine="tensorrtllm")).verdict is CheckStatus.FAIL


def test_an_image_without_tensorrt_llm_is_not_taken_for_one_that_has_it(subject, monkeypatch):
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "25.10")
    finding = check_image(subject._replace(engine="tensorrtllm"))
    assert finding.verdict is CheckStatus.FAIL
    assert finding.text.startswith("25.10-py3: no TensorRT-LLM")


@pytest.mark.parametrize(
    ("tag", "between"), [("24.12", "0.9 and 0.19"), ("25.04", "0.9 and 0.19"), ("25.08", "0.20 and 1.0")]
)
def test_of_a_tag_between_two_known_ones_is_said_what_is_known(subject, tag, between):
    image = parse_tag(f"{tag}-trtllm-python-py3")
    assert f"TensorRT-LLM between {between}" in image.description
    assert any(doubt.startswith("perhaps no Qwen3") for doubt in image.doubts()) == (tag == "25.08")


def test_a_doubt_is_a_warning(subject):
    finding = check_image(subject._replace(image=ImageTag(25, 8), engine="tensorrtllm"))
    assert (finding.verdict, "perhaps no Qwen3" in finding.text) == (CheckStatus.WARN, True)


def test_a_digest_after_the_tag_is_no_part_of_it():
    assert parse_tag(f"tritonserver:25.10-trtllm-python-py3@sha256:{'0' * 64}") == ImageTag(25, 10)


def test_an_image_whose_transformers_is_too_old_can_not_serve_the_embedded_engine(subject, install):
    install("transformers", "4.38.2")
    finding = check_engine(subject)
    assert finding.verdict is CheckStatus.FAIL
    assert "transformers 4.38 is older than 4.53" in finding.text
    assert "TensorRT-LLM's is not concerned" in finding.text
    assert check_engine(subject._replace(engine="tensorrtllm")).verdict is CheckStatus.OK


@pytest.mark.parametrize("version", ["4.53.1", "4.57.1", "5.20.2"])
def test_the_embedded_engine_runs_on_what_the_images_bring(subject, install, version):
    install("transformers", version)
    assert check_engine(subject).verdict is CheckStatus.OK


def test_no_gpu_fails_only_an_engine_that_needs_one(subject, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert check_gpu(subject).verdict is CheckStatus.SKIPPED
    assert check_gpu(subject._replace(engine="tensorrtllm")).verdict is CheckStatus.FAIL


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A program of that name that prints these lines."""

    def put(*lines):
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")

    return put


def test_a_gpu_is_named_with_its_memory_and_driver(subject, nvidia_smi):
    nvidia_smi("NVIDIA GeForce RTX 5090, 32607, 30000, 580.95")
    finding = check_gpu(subject._replace(engine="tensorrtllm"))
    assert finding.verdict is CheckStatus.WARN  # 8 % free
    assert "RTX 5090, 32,607 MiB, 8% free; driver 580.95" in finding.text


def test_every_gpu_is_judged(subject, nvidia_smi):
    nvidia_smi("NVIDIA H100, 81559, 4, 580.95", "NVIDIA H100, 81559, 81000, 580.95")
    assert check_gpu(subject._replace(engine="tensorrtllm")).verdict is CheckStatus.WARN


def test_a_gpu_that_does_not_tell_its_memory_is_named(subject, nvidia_smi):
    nvidia_smi("NVIDIA GB10, [N/A], [N/A], 580.95")
    finding = check_gpu(subject._replace(engine="tensorrtllm"))
    assert (finding.verdict, finding.text) == (CheckStatus.OK, "NVIDIA GB10, memory not told; driver 580.95")


@pytest.mark.parametrize(
    ("cuda", "driver", "is_fault"),
    [
        ("13.0.1", "575.51", True),
        ("13.0.1", "580.65", False),
        ("12.4", "525.60", False),
        ("", "1", False),
        ("12", "?", False),
    ],
)
def test_a_driver_that_is_older_than_the_images_cuda_needs_is_a_fault(cuda, driver, is_fault):
    assert bool(driver_fault(Gpu("NVIDIA H100", 1, 0, driver), cuda or None)) == is_fault


def test_an_old_driver_keeps_a_geforce_from_serving_and_warns_of_a_data_centre_gpu(subject, nvidia_smi, monkeypatch):
    monkeypatch.setenv("CUDA_VERSION", "13.0.1")
    for name, verdict in (("NVIDIA GeForce RTX 5090", CheckStatus.FAIL), ("NVIDIA H100", CheckStatus.WARN)):
        nvidia_smi(f"{name}, 32607, 4, 570.10")
        finding = check_gpu(subject._replace(engine="tensorrtllm"))
        assert (finding.verdict, "older than 580" in finding.text) == (verdict, True)


def test_a_batch_that_does_not_fit_beside_the_engine_is_a_warning(subject, tmp_path, nvidia_smi):
    release = tmp_path / "release"
    shutil.copytree(DEFAULT_RELEASE_DIR, release)
    shutil.rmtree(release / "engine")
    (release / "engine").mkdir()
    shape = {"num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8, "head_size": 128}
    config = {"pretrained_config": {**shape, "quantization": {"kv_cache_quant_algo": "FP8"}}}
    (release / "engine" / "config.json").write_text(json.dumps(config))
    of_tensorrt = subject._replace(engine="tensorrtllm", release_dir=release)
    for total_mib, verdict in ((32607, CheckStatus.OK), (5000, CheckStatus.WARN)):
        nvidia_smi(f"NVIDIA GeForce RTX 5090, {total_mib}, 4, 580.95")
        finding = check_memory(of_tensorrt)
        assert (finding.verdict, "requests of 6,000 tokens fit" in finding.text) == (verdict, True)
    (release / "engine" / "config.json").write_text("{")
    assert check_memory(of_tensorrt).verdict is CheckStatus.WARN
    assert check_memory(subject).verdict is CheckStatus.SKIPPED


def test_models_and_what_tensorrt_llm_reads_must_be_mounted(subject, tmp_path):
    assert check_mounts(subject).verdict is CheckStatus.OK
    assert "ensemble" in check_mounts(subject._replace(model_repository=tmp_path)).text
    finding = check_mounts(subject._replace(engine="tensorrtllm"))
    assert finding.verdict is CheckStatus.FAIL
    assert "/workspace/tokenizer/tokenizer_info.json" in finding.text


def test_a_whole_release_is_named_by_its_engine(subject):
    finding = check_release(subject)
    assert finding.verdict is CheckStatus.OK
    assert "engine sha256:" in finding.text


def test_a_changed_file_of_the_release_is_found(subject, tmp_path):
    release = tmp_path / "release"
    shutil.copytree(DEFAULT_RELEASE_DIR, release)
    (release / "engine" / "config.json").write_text("{}")
    finding = check_release(subject._replace(release_dir=release))
    assert finding.verdict is CheckStatus.FAIL
    assert "engine" in finding.text


def test_looking_at_the_state_directory_changes_nothing_in_it(subject):
    assert check_state_directory(subject).verdict is not CheckStatus.FAIL
    assert not subject.state_dir.exists()
    with StateDirectory(subject.state_dir) as state:
        state.begin_draining()
    before = {path.name: path.stat().st_mtime_ns for path in subject.state_dir.iterdir()}
    assert check_state_directory(subject).verdict is not CheckStatus.FAIL
    assert {path.name: path.stat().st_mtime_ns for path in subject.state_dir.iterdir()} == before
    assert "draining" in before


def test_a_state_directory_that_can_not_be_made_is_found(subject, tmp_path):
    (tmp_path / "file").touch()
    assert check_state_directory(subject._replace(state_dir=tmp_path / "file" / "state")).verdict is CheckStatus.FAIL


def test_a_state_directory_that_somebody_uses_is_found(subject):
    with StateDirectory(subject.state_dir):
        assert check_state_directory(subject).verdict is CheckStatus.FAIL


def test_beside_our_own_running_service_nothing_is_taken(subject):
    with StateDirectory(subject.state_dir), socket.create_server(("127.0.0.1", 0)) as listening:
        beside = subject._replace(ports={"http": listening.getsockname()[1]})
        for check in (check_state_directory, check_ports):
            finding = check(beside)
            assert (finding.verdict, "our service runs here" in finding.text) == (CheckStatus.OK, True)


def test_webhooks_are_named_and_their_secrets_read(subject, tmp_path):
    assert check_webhooks(subject).verdict is CheckStatus.WARN
    environment = {
        "LLMSTACK_READINESS_WEBHOOK_URL": "https://hooks.example/secret-path",
        "LLMSTACK_READINESS_WEBHOOK_SECRET_FILE": str(tmp_path / "secret"),
    }
    configured = subject._replace(environment=environment)
    assert check_webhooks(configured).verdict is CheckStatus.FAIL
    write_secrets(tmp_path / "secret", new_secret())
    assert check_webhooks(configured)[1:3] == (CheckStatus.OK, "readiness")


def test_an_address_that_nobody_listens_on_is_a_warning_without_its_path(subject, tmp_path):
    write_secrets(tmp_path / "secret", new_secret())
    environment = {
        "LLMSTACK_READINESS_WEBHOOK_URL": "http://127.0.0.1:9/secret-path",
        "LLMSTACK_READINESS_WEBHOOK_SECRET_FILE": str(tmp_path / "secret"),
    }
    finding = check_webhooks(subject._replace(environment=environment, reaches_webhooks=True))
    assert finding.verdict is CheckStatus.WARN
    assert "127.0.0.1:9" in finding.text
    assert "secret-path" not in finding.text


def test_a_port_that_is_taken_is_named(subject):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = check_ports(subject._replace(ports={"http": port, "grpc": 0}))
    assert (finding.verdict, finding.text) == (CheckStatus.FAIL, f"taken on 127.0.0.1: http {port}")


def test_brackets_in_a_path_are_printed_as_they_are(capsys):
    print_findings([CheckResult("release", CheckStatus.FAIL, "no release at a[/b]", "look at [red]")])
    output = capsys.readouterr().out
    assert "a[/b]" in output
    assert "[red]" in output


def test_serve_examines_the_options_that_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    arguments = ["serve", "--examine", "--engine", "tensorrtllm", "--state-dir", str(tmp_path / "state")]
    result = CliRunner().invoke(app, [*arguments, "--http-port", "0", "--grpc-port", "0"])
    assert result.exit_code == 1
    assert "✘ gpu" in result.output
    assert "tensorrtllm" in result.output
    assert not (tmp_path / "state").exists()


def test_shared_memory_is_measured(subject):
    assert "MiB" in check_shared_memory(subject).text


def test_the_command_prints_json_and_fails_for_the_guides_image(tmp_path):
    arguments = ["doctor", "--json", "--state-dir", str(tmp_path), "--engine", "tensorrtllm"]
    arguments += ["--image", "24.05-trtllm-python-py3", "--http-port", "0", "--grpc-port", "0"]
    arguments += ["--metrics-port", "0", "--ready-port", "0"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert {"check": "image", "verdict": "fail"}.items() <= json.loads(result.output)[0].items()
