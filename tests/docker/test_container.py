"""The container: made by the unchanged Dockerfile, as nobody in particular, on a root that can't be written."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llm_policy.release import Release
from llmstack.demo_case import demo_cases
from llmstack.door.backend import Backend
from llmstack.ensemble_client import PROTOCOLS, ServerUrls
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.docker.conftest import need
from tests.docker.containers import ROOT, TAG, container, docker, make_image, need_docker, published_port, wait_healthy
from tests.docker.running_door import RunningDoor, free_ports

HARDENED = ("--read-only", "--tmpfs", "/tmp", "--init", "--cap-drop", "ALL", "--shm-size", "1g")
HARDENED += ("--security-opt", "no-new-privileges")
PORTS = tuple(option for port in (8000, 8001, 8002, 8003) for option in ("--publish", f"127.0.0.1::{port}"))


@pytest.fixture(scope="module")
def image() -> str:
    need_docker()
    return make_image()


@pytest.fixture(scope="module")
def service(image: str) -> Iterator[str]:
    with container(*HARDENED, *PORTS, image) as live:
        wait_healthy(live)
        yield live


@pytest.fixture(scope="module")
def door(service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDoor]:
    need("haproxy", "openssl")
    backend = Backend("127.0.0.1", *(published_port(service, port) for port in (8000, 8001, 8003)))
    with RunningDoor(tmp_path_factory.mktemp("door"), [backend], ready_path="/readyz") as live:
        yield live


def test_it_runs_as_nobody_in_particular_and_can_not_write_its_root(service: str) -> None:
    assert docker("exec", service, "id", "-u") == "10001"
    assert (
        "Read-only file system"
        in subprocess.run(
            ["docker", "exec", service, "touch", "/workspace/x"], capture_output=True, text=True, check=False
        ).stderr
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_demos_requests_are_answered_through_the_door(
    door: RunningDoor, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = door.directory / "certificate.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server = ServerUrls(door.http_url, door.grpc_url, str(certificate))
    for case in demo_cases(Release.open(DEFAULT_RELEASE_DIR)):
        reply = PROTOCOLS[protocol](server, case.inputs, case.headers)
        assert not case.fault_of(reply), (case.name, reply)


def test_it_drains_and_ends_with_0_when_it_is_stopped(image: str) -> None:
    with container(*HARDENED, image, "--engine", "echo") as live:
        wait_healthy(live)
        began = time.monotonic()
        docker("stop", "--time", "60", live)
        assert time.monotonic() - began < 45
        assert docker("inspect", "-f", "{{.State.ExitCode}}", live) == "0"


def test_the_state_outlives_the_container(image: str) -> None:
    volume = docker("volume", "create")
    try:
        for _ in range(2):
            with container(*HARDENED, "--volume", f"{volume}:/var/lib/llmstack", image, "--engine", "echo") as live:
                wait_healthy(live)
                report = json.loads(docker("exec", live, "llmstack", "ledger", "verify", "--json"))
        assert report
    finally:
        docker("volume", "rm", volume)


def test_the_image_is_examined_from_inside(image: str) -> None:
    done = subprocess.run(
        [str(ROOT / "docker" / "serve_triton.sh"), "--dry-run"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2  # no engine of Qwen3-32B lies here, and Docker was not asked
    assert docker("run", "--rm", image, "llmstack", "manifest", "verify", "artifacts/current")


def test_a_build_that_would_replace_the_images_own_fails(image: str, tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(
        f"FROM {image}\nUSER root\n"
        "RUN mkdir /opt/llmstack/lib/python3.11/site-packages/numpy"
        " && touch /opt/llmstack/lib/python3.11/site-packages/numpy/__init__.py\n"
        "RUN /opt/llmstack/bin/python /opt/llmstack-build/check_environment.py\n"
    )
    done = subprocess.run(["docker", "build", "-q", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "installed over the image's own" in done.stdout + done.stderr


@pytest.mark.parametrize("form", ["directory", "file"])
def test_serve_triton_serves_what_its_environment_names(image: str, tmp_path: Path, form: str) -> None:
    release = DEFAULT_RELEASE_DIR.resolve()
    http_port, grpc_port, metrics_port = free_ports(3)
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ENGINE_PATH": str(release / "engine"),
        "MODEL_REPO": str(ROOT / "model_repository"),
        "TOKENIZER_DIR": str(release / "tokenizer"),
        "TOKENIZER_INFO": str(release / "tokenizer_info.json"),
        "TRITON_IMAGE": TAG,
        "TRITON_HTTP_PORT": str(http_port),
        "TRITON_GRPC_PORT": str(grpc_port),
        "TRITON_METRICS_PORT": str(metrics_port),
    }
    if form == "file":
        plan = tmp_path / "engine.plan"
        plan.write_bytes(b"plan")
        environment["ENGINE_PATH"] = str(plan)
    process = subprocess.Popen(
        [str(ROOT / "docker" / "serve_triton.sh"), "--engine", "echo"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    name = f"llmstack-{http_port}"
    try:
        if form == "file":  # it is not the engine that the manifest names
            output, _ = process.communicate(timeout=60)
            assert process.returncode == 1
            assert "engine" in output and "hash" in output
            return
        end = time.monotonic() + 60
        while not is_ready(http_port):
            assert process.poll() is None and time.monotonic() < end, process.stdout
            time.sleep(0.5)
        assert "llm_requests_total" in httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text
        docker("stop", name)
        assert process.wait(timeout=60) == 0
    finally:
        docker("rm", "--force", name, check=False)
        docker("volume", "rm", f"llmstack-state-{http_port}", check=False)
        process.kill()
        process.wait()


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/models/ensemble/ready").status_code == 200
    except httpx.HTTPError:
        return False
