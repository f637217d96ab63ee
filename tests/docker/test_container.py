"""The container that the unchanged Dockerfile builds: an unprivileged user on a read-only root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from llm_policy.release.digest import engine_hash
from llm_policy.release.release import Release
from llm_policy.rules.headers import API_KEY, ENGINE_HASH
from llmstack.client.ensemble_client import PROTOCOLS, ServerUrls
from llmstack.demo.cases import demo_cases
from llmstack.gateway.backend import Backend
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.docker.conftest import require_programs
from tests.docker.containers import (
    ENGINE_PYTHON,
    ROOT,
    container,
    docker,
    llmstack,
    make_image,
    make_stand_in,
    make_vllm_image,
    published_port,
    require_docker,
    wait_healthy,
)
from tests.docker.running_gateway import RunningGateway, free_ports

HARDENED_WITH_KEYS = (
    *("--read-only", "--tmpfs", "/tmp", "--init", "--cap-drop", "ALL", "--shm-size", "1g"),
    *("--security-opt", "no-new-privileges"),
)
HARDENED = (*HARDENED_WITH_KEYS, "--env", "LLMSTACK_REQUIRE_API_KEYS=0")
PORTS = tuple(option for port in (8000, 8001, 8002, 8003, 8005) for option in ("--publish", f"127.0.0.1::{port}"))


@pytest.fixture(scope="module")
def image() -> str:
    require_docker()
    return make_image()


@pytest.fixture(scope="module")
def vllm_image(image: str) -> str:
    return make_vllm_image()  # after the other image, with which it shares all layers but the last ones


@pytest.fixture(scope="module")
def service(image: str) -> Iterator[str]:
    with container(*HARDENED, *PORTS, image) as live:
        wait_healthy(live)
        yield live


@pytest.fixture(scope="module")
def gateway(service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    require_programs("haproxy", "openssl")
    backend = Backend("127.0.0.1", *(published_port(service, port) for port in (8000, 8001, 8003, 8005)))
    with RunningGateway(tmp_path_factory.mktemp("gateway"), [backend], ready_path="/readyz") as live:
        yield live


def test_it_runs_as_an_unprivileged_user_on_a_read_only_root(service: str) -> None:
    assert docker("exec", service, "id", "-u") == "10001"
    touch = ["docker", "exec", service, "touch", "/workspace/x"]
    done = subprocess.run(touch, capture_output=True, text=True, check=False)
    assert "Read-only file system" in done.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_demos_requests_are_answered_through_the_gateway(gateway: RunningGateway, protocol: str) -> None:
    certificate = gateway.directory / "certificate.pem"
    server = ServerUrls(gateway.http_url, gateway.grpc_url, str(certificate))
    for case in demo_cases(Release.open(DEFAULT_RELEASE_DIR)):
        reply = PROTOCOLS[protocol](server, case.inputs, case.headers)
        assert not case.find_fault(reply), (case.name, reply)


def test_it_requires_keys_unless_it_is_told_otherwise(image: str) -> None:
    with container(*HARDENED_WITH_KEYS, *PORTS, image, "--engine", "echo") as live:
        wait_healthy(live)
        created = json.loads(docker("exec", live, "llmstack", "tenant", "create", "shop", "--json"))
        server = ServerUrls(f"http://127.0.0.1:{published_port(live, 8000)}", f"127.0.0.1:{published_port(live, 8001)}")
        case, *_ = demo_cases(Release.open(DEFAULT_RELEASE_DIR))
        for send in PROTOCOLS.values():
            assert send(server, case.inputs, case.headers).code == "missing_api_key"
            keyed = {**case.headers, API_KEY: created["new_key"]["key"]}
            assert not send(server, case.inputs, keyed).error
        usage = json.loads(docker("exec", live, "llmstack", "usage", "--tenant", "shop", "--json"))
        assert usage


def test_it_drains_and_exits_with_0_when_it_is_stopped(image: str) -> None:
    with container(*HARDENED, image, "--engine", "echo") as live:
        wait_healthy(live)
        docker("stop", "--time", "60", live)  # then Docker kills it, and the exit code is 137
        assert docker("inspect", "-f", "{{.State.ExitCode}}", live) == "0"


def test_the_state_survives_the_container(image: str) -> None:
    volume = docker("volume", "create")
    try:
        for _ in range(2):
            with container(*HARDENED, "--volume", f"{volume}:/var/lib/llmstack", image, "--engine", "echo") as live:
                wait_healthy(live)
                report = json.loads(docker("exec", live, "llmstack", "ledger", "verify", "--json"))
        assert report
    finally:
        docker("volume", "rm", volume)


def test_the_image_passes_every_check(image: str) -> None:
    done = llmstack("image", "check", "--tag", image, "--json")
    results = {result["check"]: (result["ok"], result["text"]) for result in json.loads(done.stdout)}
    assert done.returncode == 0, results
    assert results.keys() == {"labels", "user", "healthcheck", "environment", "release", "start"}
    assert "the embedded engine decodes" in results["environment"][1]


def test_an_image_without_llmstack_is_rejected() -> None:
    require_docker()
    done = llmstack("image", "check", "--tag", make_stand_in()[0])
    assert (done.returncode, "does not contain llmstack" in done.stderr) == (2, True)


def test_the_container_exits_with_the_reason_when_the_engine_can_not_run(image: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", *HARDENED, image, "--engine", "tensorrtllm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no NVIDIA GPU found" in done.stdout


def test_a_build_that_replaces_a_package_of_the_base_image_fails(image: str, tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(
        f"FROM {image}\nUSER root\n"
        "RUN mkdir /opt/llmstack/lib/python3.11/site-packages/numpy"
        " && touch /opt/llmstack/lib/python3.11/site-packages/numpy/__init__.py\n"
        "RUN /opt/llmstack/bin/python /opt/llmstack-build/check_environment.py\n"
    )
    done = subprocess.run(
        ["docker", "build", "-q", "--force-rm", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "replaces the base image's package" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def vllm_service(vllm_image: str) -> Iterator[str]:
    with container(*HARDENED, *PORTS, vllm_image) as live:
        wait_healthy(live)
        yield live


def test_the_image_with_vllm_runs_engines_in_the_base_images_python(vllm_service: str) -> None:
    port = published_port(vllm_service, 8003)
    pid = httpx.get(f"http://127.0.0.1:{port}/readyz").json()["engine_process"]["pid"]
    engine = docker("exec", vllm_service, "cat", f"/proc/{pid}/cmdline").split("\0")
    assert ENGINE_PYTHON in engine and "engine_process" in engine
    server = ServerUrls(
        f"http://127.0.0.1:{published_port(vllm_service, 8000)}", f"127.0.0.1:{published_port(vllm_service, 8001)}"
    )
    for case in demo_cases(Release.open(DEFAULT_RELEASE_DIR)):
        reply = PROTOCOLS["gRPC"](server, case.inputs, case.headers)
        assert not case.find_fault(reply), (case.name, reply)


def test_the_policy_in_the_image_with_vllm_has_another_numpy_than_the_engine(vllm_service: str) -> None:
    numpy = "import numpy; print(numpy.__version__)"
    assert docker("exec", vllm_service, ENGINE_PYTHON, "-c", numpy).startswith("2.")
    assert docker("exec", vllm_service, "python", "-c", numpy) == "1.26.4"


def test_the_doctor_in_the_image_with_vllm_finds_vllm_in_the_engines_python(vllm_service: str) -> None:
    report = docker("exec", vllm_service, "llmstack", "doctor", "--engine", "vllm", "--json", check=False)
    found = {each["check"]: each for each in json.loads(report)}
    assert found["engine process"]["verdict"] == "ok"
    assert found["engine process"]["text"].startswith(f"{ENGINE_PYTHON}, Python 3.11.2, vllm 0.24.0")
    assert found["gpu"]["verdict"] == found["engine options"]["verdict"] == "fail"


def test_the_check_fails_when_the_engines_python_can_not_run_engines(vllm_image: str) -> None:
    site = str(Path(ENGINE_PYTHON).parents[1] / "lib" / "python3.11" / "site-packages")
    check = f"rm -r {site}/vllm {site}/msgspec && python /opt/llmstack-build/check_environment.py"
    done = subprocess.run(
        ["docker", "run", "--rm", "--user", "0", "--entrypoint", "sh", vllm_image, "-c", check],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"{ENGINE_PYTHON} does not find vllm" in done.stderr
    assert f"{ENGINE_PYTHON} can't import msgspec" in done.stderr


@pytest.fixture
def external_release(tmp_path: Path) -> Path:
    """A release and a model repository outside the checkout. The engine is a single file without a real engine."""
    release = tmp_path / "a release"
    shutil.copytree(DEFAULT_RELEASE_DIR.resolve(), release)
    shutil.copytree(ROOT / "model_repository", tmp_path / "models")
    shutil.move(release / "tokenizer", tmp_path / "tokenizer")
    shutil.rmtree(release / "engine")
    (tmp_path / "models" / "mark").write_text("mark, ")
    (tmp_path / "qwen.plan").write_text("plan, ")
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["engine"]["hash"] = engine_hash(tmp_path / "qwen.plan")
    (release / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_serve_triton_serves_the_files_that_its_environment_names(image: str, external_release: Path) -> None:
    http_port, grpc_port, metrics_port, openai_port = free_ports(4)
    environment = {
        "PATH": os.environ["PATH"],
        "ENGINE_PATH": str(external_release / "qwen.plan"),
        "MODEL_REPO": str(external_release / "models"),
        "TOKENIZER_DIR": str(external_release / "tokenizer"),
        "TOKENIZER_INFO": str(external_release / "a release" / "tokenizer_info.json"),
        "TRITON_IMAGE": image,
        "TRITON_HTTP_PORT": str(http_port),
        "TRITON_GRPC_PORT": str(grpc_port),
        "TRITON_METRICS_PORT": str(metrics_port),
        "TRITON_OPENAI_PORT": str(openai_port),
    }
    name = f"llmstack-{http_port}"
    with serve_triton(environment, external_release / "log", "--engine", "echo") as process:
        end = time.monotonic() + 180
        while not is_ready(http_port):
            assert process.poll() is None and time.monotonic() < end, (external_release / "log").read_text()
            time.sleep(0.5)
        case = demo_cases(Release.open(DEFAULT_RELEASE_DIR))[0]
        headers = {**case.headers, ENGINE_HASH: engine_hash(external_release / "qwen.plan")}
        server = ServerUrls(f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}")
        for protocol in PROTOCOLS.values():
            assert protocol(server, case.inputs, headers).outputs["engine_hash"] == [headers[ENGINE_HASH]]
        assert "llm_requests_total" in httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        assert httpx.get(f"http://127.0.0.1:{openai_port}/v1/models").json()["object"] == "list"
        mounted = ("engine/rank0.engine", "model_repository/mark", "tokenizer/tokenizer_info.json")
        inside = docker("exec", name, "cat", *(f"/workspace/{file}" for file in mounted))
        assert inside.startswith("plan, mark, {")
        assert "127.0.0.1" in docker("port", name, "8000")
        docker("stop", name)
        assert process.wait(timeout=90) == 0


def test_serve_triton_rejects_an_engine_with_another_hash_than_the_manifests(
    image: str, external_release: Path
) -> None:
    (external_release / "qwen.plan").write_bytes(b"another plan")
    environment = {
        "PATH": os.environ["PATH"],
        "ENGINE_PATH": str(external_release / "qwen.plan"),
        "TOKENIZER_DIR": str(external_release / "tokenizer"),
        "TOKENIZER_INFO": str(external_release / "a release" / "tokenizer_info.json"),
        "TRITON_IMAGE": image,
        "TRITON_HTTP_PORT": str(free_ports(1)[0]),
    }
    with serve_triton(environment, external_release / "log", "--engine", "echo") as process:
        assert process.wait(timeout=180) == 1
    assert "engine" in (external_release / "log").read_text() and "hash" in (external_release / "log").read_text()


@contextmanager
def serve_triton(environment: dict[str, str], log: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the script with this environment only, and remove its container and volume at the end."""
    name = f"llmstack-{environment['TRITON_HTTP_PORT']}"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(ROOT / "docker" / "serve_triton.sh"), *arguments],
            env=environment,
            stdout=output,
            stderr=output,
            text=True,
        )
    try:
        yield process
    finally:
        docker("rm", "--force", name, check=False)
        docker("volume", "rm", name.replace("llmstack-", "llmstack-state-"), check=False)
        process.kill()
        process.wait()


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/models/ensemble/ready").status_code == 200
    except httpx.HTTPError:
        return False
