"""The compose file: services become healthy, only the gateway is public, metrics are scraped, `down` cleans up."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_policy.release.release import Release
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.docker.containers import PROJECT, ROOT, docker, make_image, make_stand_in, require_docker
from tests.docker.running_gateway import free_ports
from tests.docker.test_attacks import BODY, HEADERS, INFER

HERE = Path(__file__).parent
PROJECT_FILTER = f"label=com.docker.compose.project={PROJECT}"
ENGINE_HASH = Release.open(DEFAULT_RELEASE_DIR).manifest.engine.hash


class Compose:
    """One project of the compose file, in a fresh copy of docker/ prepared by prepare_compose.sh."""

    def __init__(self, directory: Path, image: str) -> None:
        self.directory = directory / "docker"
        shutil.copytree(ROOT / "docker", self.directory, ignore=shutil.ignore_patterns("secrets", "haproxy"))
        shutil.copytree(DEFAULT_RELEASE_DIR, directory / "artifacts" / "current")
        self._files = (self.directory / "docker-compose.triton.yml", HERE / "compose.override.yml")
        prepare(self.directory)
        self.certificate = directory / "certificate.pem"
        both = (self.directory / "secrets" / "gateway.pem").read_text()
        self.certificate.write_text(both[: both.index("-----BEGIN PRIVATE KEY")])
        debian, _ = make_stand_in()
        self.https_port, grpc_port, board_port = free_ports(3)
        self.board_url = f"http://localhost:{board_port}"
        self._environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_PROFILES": "board",
            "LLMSTACK_REQUIRE_API_KEYS": "0",
            "BOARD_PORT": str(board_port),
            "LLMSTACK_READINESS_WEBHOOK_URL": "http://board:8004/webhooks",
            "LLMSTACK_IMAGE": image,
            "HAPROXY_IMAGE": debian,
            "PROMETHEUS_IMAGE": debian,
            "GATEWAY_HTTPS_PORT": str(self.https_port),
            "GATEWAY_GRPC_PORT": str(grpc_port),
        }

    @property
    def url(self) -> str:
        return f"https://localhost:{self.https_port}"

    def __call__(self, *arguments: str) -> str:
        command = ["docker-compose", *(word for file in self._files for word in ("-f", str(file))), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self._environment)
        assert done.returncode == 0, done.stderr[-3_000:]
        return done.stdout

    def request(self, path: str = INFER, **arguments: Any) -> httpx.Response:
        context = ssl.create_default_context(cafile=str(self.certificate))
        method = "POST" if "json" in arguments else "GET"
        return httpx.request(method, self.url + path, verify=context, timeout=30, **arguments)


def prepare(directory: Path) -> None:
    """Run the script that the head of the compose file names."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "LLMSTACK_REQUIRE_API_KEYS": "0"}
    subprocess.run([directory / "prepare_compose.sh"], check=True, env=environment)


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    require_docker()
    if shutil.which("docker-compose") is None:
        pytest.skip("not installed: docker-compose (.ci/run installs it)")
    project = Compose(tmp_path_factory.mktemp("compose"), make_image())
    try:
        project("up", "--detach")
        yield project
    finally:
        project("down", "--volumes", "--timeout", "60")


def compose_logs() -> str:
    """The last log lines of every container."""
    names = docker("ps", "--all", "--filter", PROJECT_FILTER, "--format", "{{.Names}}").split()
    return "".join(f"\n{name}:\n{docker('logs', '--tail', '20', name)}" for name in names)


def wait_until(condition: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (httpx.HTTPError, AssertionError):
            pass
        assert time.monotonic() < end, docker("ps", "--all") + compose_logs()
        time.sleep(1)


def test_the_gateway_answers_once_the_server_is_healthy(compose: Compose) -> None:
    wait_until(lambda: compose.request("/v2/health/ready").status_code == 200)
    answer = compose.request(json=BODY, headers=HEADERS)
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    assert outputs["engine_hash"] == [ENGINE_HASH]


def test_the_gateway_answers_the_openai_api(compose: Compose) -> None:
    wait_until(lambda: compose.request("/v1/models").status_code == 200)
    chat = {"model": "ensemble", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    answer = compose.request("/v1/chat/completions", json=chat, headers=HEADERS)
    assert answer.json()["choices"][0]["message"]["role"] == "assistant"
    assert answer.headers["x-llmstack-engine-hash"] == ENGINE_HASH


def test_every_service_becomes_healthy(compose: Compose) -> None:
    def states() -> list[str]:
        return docker("ps", "--filter", PROJECT_FILTER, "--format", "{{.Status}}").splitlines()

    wait_until(lambda: len(states()) >= 4 and all("(healthy)" in state for state in states()))


def test_secrets_are_private_to_their_owner_and_survive_a_second_run(compose: Compose) -> None:
    secrets = compose.directory / "secrets"
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}
    prepare(compose.directory)
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    assert before.keys() == {"gateway.pem", "finance_webhook", "grafana_password", "readiness_webhook"}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700


def test_the_gpu_file_adds_gpus_and_the_files_of_tensorrt_llm(compose: Compose) -> None:
    rendered = compose("-f", str(compose.directory / "docker-compose.gpu.yml"), "config")
    assert "nvidia" in rendered
    assert "/workspace/engine:ro" in rendered
    assert "/workspace/tokenizer/tokenizer_info.json:ro" in rendered


def test_the_server_publishes_no_port(compose: Compose) -> None:
    published = docker("ps", "--filter", PROJECT_FILTER, "--format", "{{.Names}} {{.Ports}}")
    assert all("->" not in line for line in published.splitlines() if "triton" in line)


def test_the_board_is_published_on_localhost_only_and_reaches_the_server(compose: Compose) -> None:
    wait_until(lambda: httpx.get(f"{compose.board_url}/healthz").status_code == 200)
    published = docker("ps", "--filter", PROJECT_FILTER, "--format", "{{.Names}} {{.Ports}}").splitlines()
    assert ["127.0.0.1:" in line and "0.0.0.0:" not in line for line in published if "board" in line] == [True]
    assert compose("exec", "-T", "board", "id", "-u").strip() == "10001"
    # The name resolves; the signature is missing.
    call = "import httpx; print(httpx.post('http://board:8004/webhooks').status_code)"
    assert compose("exec", "-T", "triton", "python", "-c", call).strip() == "401"
    token = compose("exec", "-T", "board", "llmstack", "board", "reviewer", "add", "Ada").strip()
    with httpx.Client(base_url=compose.board_url, follow_redirects=True) as client:
        assert client.post("/login", data={"token": token}).status_code == 200
        wait_until(lambda: ENGINE_HASH in client.get("/").text)


def test_prometheus_scrapes_the_server(compose: Compose) -> None:
    port = compose("port", "prometheus", "9090").strip().rsplit(":", 1)[1]

    def is_scraped() -> bool:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": "llm_ready"}).json()
        return [each["value"][1] for each in answer["data"]["result"]] == ["1"]

    wait_until(is_scraped)


def test_the_gateway_finds_a_recreated_server_at_its_new_address(compose: Compose) -> None:
    wait_until(lambda: compose.request("/v2/health/ready").status_code == 200)
    compose("up", "--detach", "--force-recreate", "--no-deps", "triton")
    wait_until(lambda: compose.request(json=BODY, headers=HEADERS).status_code == 200)


def test_down_removes_containers_volumes_and_networks(compose: Compose) -> None:
    compose("down", "--volumes", "--timeout", "60")
    for command in (("ps", "--all"), ("volume", "ls"), ("network", "ls")):
        assert docker(*command, "--filter", PROJECT_FILTER, "--quiet") == ""
