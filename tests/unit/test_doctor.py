"""The doctor: what it says of images, machines and settings, seen on real files, ports and directories."""

import json
import shutil
import socket

import pytest
from typer.testing import CliRunner

from llmstack.__main__ import app
from llmstack.doctor.checks import (
    Subject,
    check_gpu,
    check_image,
    check_ports,
    check_release,
    check_shared_memory,
    check_state_directory,
    check_webhooks,
)
from llmstack.doctor.finding import Verdict
from llmstack.doctor.image_tag import ImageTag, parse_tag
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.supervision.state_directory import StateDirectory
from tests.webhook_receiver import new_secret, write_secrets


@pytest.fixture
def subject(tmp_path):
    ports = dict.fromkeys(("http", "grpc", "metrics", "ready"), 0)
    return Subject(DEFAULT_RELEASE_DIR, "embedded", tmp_path / "state", "127.0.0.1", ports, None, False, {})


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
    assert check_image(old).verdict is Verdict.WARN
    assert check_image(old._replace(engine="tensorrtllm")).verdict is Verdict.FAIL


def test_the_image_says_itself_which_it_is(subject, monkeypatch):
    monkeypatch.setenv("NVIDIA_TRITON_SERVER_VERSION", "25.10")
    assert check_image(subject).text.startswith("25.10-trtllm-python-py3: TensorRT-LLM 1.0")


def test_no_gpu_fails_only_an_engine_that_needs_one(subject, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert check_gpu(subject).verdict is Verdict.SKIPPED
    assert check_gpu(subject._replace(engine="tensorrtllm")).verdict is Verdict.FAIL


def test_a_gpu_is_named_with_its_memory_and_driver(subject, tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 5090, 32607, 30000, 580.95'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    finding = check_gpu(subject._replace(engine="tensorrtllm"))
    assert finding.verdict is Verdict.WARN  # 8 % free
    assert "RTX 5090, 32,607 MiB, 8% free, driver 580.95" in finding.text


def test_a_whole_release_is_named_by_its_engine(subject):
    finding = check_release(subject)
    assert finding.verdict is Verdict.OK
    assert "engine sha256:" in finding.text


def test_a_changed_file_of_the_release_is_found(subject, tmp_path):
    release = tmp_path / "release"
    shutil.copytree(DEFAULT_RELEASE_DIR, release)
    (release / "engine" / "config.json").write_text("{}")
    finding = check_release(subject._replace(release_dir=release))
    assert finding.verdict is Verdict.FAIL
    assert "engine" in finding.text


def test_a_state_directory_that_somebody_uses_is_found(subject):
    assert check_state_directory(subject).verdict is not Verdict.FAIL
    with StateDirectory(subject.state_dir):
        assert check_state_directory(subject).verdict is Verdict.FAIL


def test_webhooks_are_named_and_their_secrets_read(subject, tmp_path):
    assert check_webhooks(subject).verdict is Verdict.WARN
    environment = {
        "LLMSTACK_READINESS_WEBHOOK_URL": "https://hooks.example/secret-path",
        "LLMSTACK_READINESS_WEBHOOK_SECRET_FILE": str(tmp_path / "secret"),
    }
    configured = subject._replace(environment=environment)
    assert check_webhooks(configured).verdict is Verdict.FAIL
    write_secrets(tmp_path / "secret", new_secret())
    assert check_webhooks(configured)[1:3] == (Verdict.OK, "readiness")


def test_an_address_that_nobody_listens_on_is_a_warning_without_its_path(subject, tmp_path):
    write_secrets(tmp_path / "secret", new_secret())
    environment = {
        "LLMSTACK_READINESS_WEBHOOK_URL": "http://127.0.0.1:9/secret-path",
        "LLMSTACK_READINESS_WEBHOOK_SECRET_FILE": str(tmp_path / "secret"),
    }
    finding = check_webhooks(subject._replace(environment=environment, reaches_webhooks=True))
    assert finding.verdict is Verdict.WARN
    assert "127.0.0.1:9" in finding.text
    assert "secret-path" not in finding.text


def test_a_port_that_is_taken_is_named(subject):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = check_ports(subject._replace(ports={"http": port, "grpc": 0}))
    assert (finding.verdict, finding.text) == (Verdict.FAIL, f"taken on 127.0.0.1: http {port}")


def test_shared_memory_is_measured(subject):
    assert "MiB" in check_shared_memory(subject).text


def test_the_command_prints_json_and_fails_for_the_guides_image(tmp_path):
    arguments = ["doctor", "--json", "--state-dir", str(tmp_path), "--engine", "tensorrtllm"]
    arguments += ["--image", "24.05-trtllm-python-py3", "--http-port", "0", "--grpc-port", "0"]
    arguments += ["--metrics-port", "0", "--ready-port", "0"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert {"check": "image", "verdict": "fail"}.items() <= json.loads(result.output)[0].items()
