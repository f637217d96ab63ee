"""`llmstack serve` as a command, and what its server passes on to the models, shown by one that echoes its input.

`test_supervision.py` tests the running service.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
from llmstack.client.ensemble_client import PROTOCOLS, ServerUrls
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.command import ADMIN_KEY_HEADER, GRPC_ADMIN_KEY_METADATA
from llmstack.server.error import ServerStartError
from llmstack.server.process import LOG_NAME, TritonServer
from tests.integration.conftest import ADMIN_KEY, UNREACHABLE_PROXIES
from tests.integration.live_service import LiveService, wait_until

ECHO_ENSEMBLE = Path(__file__).parent / "echo_ensemble"
SERVE = [sys.executable, "-m", "llmstack", "serve", "--engine", "echo"]
FREE = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--ready-port", "0", "--openai-port", "0"]

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def echo_ensemble() -> Iterator[TritonServer]:
    with TritonServer(model_repository=ECHO_ENSEMBLE) as live:
        yield live


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `llmstack serve` with these arguments; processes that still run at the end are killed."""
    with contextlib.ExitStack() as started:

        def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [*SERVE, "--state-dir", str(tmp_path / "state"), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **environment},
            )
            started.callback(process.communicate)
            started.callback(process.kill)
            return process

        yield start


def read_urls(lines: Iterable[str]) -> dict[str, str]:
    """The rows that are printed before "ready", by name."""
    rows = {}
    for line in lines:
        if line.startswith("ready"):
            return rows
        if len(words := line.split(maxsplit=1)) == 2:
            rows[words[0]] = words[1].strip()
    raise AssertionError(rows)


def processes_of(state_dir: Path) -> list[int]:
    """The processes that were started with this state directory, without zombies."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(state_dir).encode() in (process / "cmdline").read_bytes():
                pids.append(int(process.name))
    return pids


def send_http(server: TritonServer, headers: dict[str, str]) -> dict:
    tensor = {"name": "text_input", "shape": [1, 1], "datatype": "BYTES", "data": ["hello"]}
    url = f"{server.http_url}/v2/models/ensemble/infer"
    reply = httpx.post(url, json={"inputs": [tensor]}, headers=headers, timeout=60)
    return json.loads(reply.json()["outputs"][0]["data"][0])


def send_grpc(server: TritonServer, headers: dict[str, str]) -> dict:
    tensor = triton_grpc.InferInput("text_input", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[b"hello"]], np.object_))
    with triton_grpc.InferenceServerClient(server.grpc_url) as client:
        result = client.infer("ensemble", [tensor], headers={name.lower(): value for name, value in headers.items()})
    return json.loads(result.as_numpy("text_output").item())


@pytest.mark.parametrize("send", [send_http, send_grpc])
def test_known_headers_reach_the_models_and_no_others(echo_ensemble, send):
    known = {"X-ENGINE-hash": "a", "x-quantisation": "b", "X-Tenant": "c", "X-Request-ID": "d", "Authorization": "g"}
    others = {"X-Engine-Hash-2": "e", "My-X-Tenant": "f", "Proxy-Authorization": "i", "Triton-Enable": "h"}
    seen = send(echo_ensemble, {**known, **others})["parameters"]
    assert {name.lower(): value for name, value in seen.items()} == {n.lower(): v for n, v in known.items()}


def test_the_stubs_run_in_this_environment_and_find_the_release(echo_ensemble):
    seen = send_http(echo_ensemble, {})
    assert seen["prefix"] == sys.prefix
    assert seen["environment"]["LLMSTACK_PYTHON"] == sys.executable
    assert seen["environment"]["LLMSTACK_RELEASE_DIR"] == str(DEFAULT_RELEASE_DIR.resolve())
    assert seen["environment"]["LLMSTACK_STATE_DIR"] == str(echo_ensemble.state_dir)


def test_a_stub_does_not_import_torch(echo_ensemble):
    assert send_http(echo_ensemble, {})["torch"] is False


HTTP_ADMIN = [
    ("POST", "repository/index"),
    ("POST", "repository/models/ensemble/load"),
    ("POST", "repository/models/ensemble/unload"),
    ("GET", "trace/setting"),
    ("POST", "trace/setting"),
    ("GET", "models/ensemble/trace/setting"),
    ("POST", "models/ensemble/trace/setting"),
    ("GET", "logging"),
    ("POST", "logging"),
    ("GET", "systemsharedmemory/status"),
    ("POST", "systemsharedmemory/region/r/register"),
    ("POST", "systemsharedmemory/unregister"),
    ("GET", "cudasharedmemory/status"),
    ("POST", "cudasharedmemory/region/r/register"),
]


@pytest.mark.parametrize(("method", "path"), HTTP_ADMIN)
def test_an_administrative_http_api_needs_the_key(echo_ensemble, method, path):
    url = f"{echo_ensemble.http_url}/v2/{path}"
    for headers in ({}, {ADMIN_KEY_HEADER: "wrong"}):
        assert httpx.request(method, url, content=b"{}", headers=headers).status_code == 403


def test_the_key_opens_the_http_apis(echo_ensemble):
    reply = httpx.get(f"{echo_ensemble.http_url}/v2/logging", headers={ADMIN_KEY_HEADER: echo_ensemble.admin_key})
    assert reply.status_code == 200


GRPC_ADMIN = [
    "get_model_repository_index",
    "get_trace_settings",
    "get_log_settings",
    "get_system_shared_memory_status",
    "get_cuda_shared_memory_status",
]


@pytest.mark.parametrize("call", GRPC_ADMIN)
def test_an_administrative_grpc_api_needs_the_key(echo_ensemble, call):
    with triton_grpc.InferenceServerClient(echo_ensemble.grpc_url) as client:
        with pytest.raises(triton_grpc.InferenceServerException, match="restricted"):
            getattr(client, call)()
        getattr(client, call)(headers={GRPC_ADMIN_KEY_METADATA: echo_ensemble.admin_key})


def test_health_metadata_and_statistics_need_no_key(echo_ensemble):
    for path in ("health/ready", "health/live", "", "models/ensemble", "models/ensemble/stats"):
        assert httpx.get(f"{echo_ensemble.http_url}/v2/{path}".rstrip("/")).status_code == 200


def test_the_server_publishes_metrics_at_its_url(echo_ensemble):
    assert "nv_inference_request_success" in httpx.get(echo_ensemble.metrics_url).text


def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    for name, url in UNREACHABLE_PROXIES.items():
        monkeypatch.setenv(name, url)
    urls = read_urls(server.output().splitlines())
    addresses = ServerUrls(urls["HTTP"].removesuffix("/v2/models/ensemble/infer"), urls["gRPC"])
    headers = {name: urls[name] for name in (ENGINE_HASH, QUANTISATION)}
    for send in PROTOCOLS.values():
        assert send(addresses, {"text_input": "hello", "max_tokens": 2}, headers).error == ""


def test_an_admin_key_from_a_file_opens_the_apis_and_is_not_printed(server):
    url = f"{server.http_url}/v2/logging"
    assert httpx.get(url).status_code == 403
    assert httpx.get(url, headers={ADMIN_KEY_HEADER: ADMIN_KEY}).status_code == 200
    assert ADMIN_KEY not in server.output()
    assert ADMIN_KEY not in server.log_path.read_text()


@pytest.mark.ends_server
def test_sigterm_ends_the_server_and_all_its_children(embedded_service: LiveService):
    urls = read_urls(embedded_service.output().splitlines())
    assert httpx.get(urls["Metrics"]).status_code == 200
    assert len(processes_of(embedded_service.state_dir)) >= 3  # the command, the server, a stub
    embedded_service.process.terminate()
    assert embedded_service.process.wait(60) == 0
    assert "stopped" in embedded_service.output()
    assert "Waiting for in-flight requests" in embedded_service.output()  # the server's log
    assert processes_of(embedded_service.state_dir) == []
    assert embedded_service.log_path.stat().st_size > 0


def test_verbose_shows_the_log_without_messages_about_a_missing_gpu(server: LiveService):
    assert "Started GRPCInferenceService" in server.output()
    assert "DCGM" not in server.output()


@pytest.mark.slow
def test_ctrl_c_ends_the_server_and_all_its_children(serve, tmp_path):
    process = serve(*FREE)
    read_urls(process.stdout)
    assert len(processes_of(tmp_path)) >= 3
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert "stopped" in process.stdout.read()
    assert processes_of(tmp_path) == []


def test_a_signal_while_models_load_ends_the_server_and_all_its_children(serve, tmp_path):
    process = serve(*FREE)
    wait_until(lambda: len(processes_of(tmp_path)) >= 2)
    process.terminate()
    assert process.wait(60) == 0
    assert processes_of(tmp_path) == []


def test_a_port_in_use_is_named(serve):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        process = serve(*FREE[2:], LLMSTACK_HTTP_PORT=port)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"--http-port {port}" in errors
    assert "LLMSTACK_HTTP_PORT" in errors


def test_a_missing_release_is_named(serve):
    process = serve("--release", "/nowhere/at/all")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no release at /nowhere/at/all" in errors


def test_a_changed_file_of_the_release_is_an_error_before_the_server_starts(serve, tmp_path):
    release = shutil.copytree(DEFAULT_RELEASE_DIR, tmp_path / "release")
    (release / "engine" / "config.json").write_text("{}")
    (release / "tokenizer_info.json").write_text("{}")
    process = serve("--release", str(release))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "engine.hash: manifest has sha256:" in errors
    assert "tokenizer.info_hash: manifest has sha256:" in errors
    assert not (tmp_path / "state" / LOG_NAME).exists()


@pytest.mark.slow
def test_the_console_shows_why_a_model_fails_to_load(serve):
    reason = "engine.hash: on disk is another"
    process = serve(*FREE, "--model-repository", str(ECHO_ENSEMBLE), ECHO_ENSEMBLE_LOAD_ERROR=reason)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "failed to load 'ensemble'" in errors
    assert errors.count(reason) == 1
    assert LOG_NAME in errors
    assert not re.search(r"Traceback|model\.py|CUDA|DCGM|NVML", errors)


def test_an_engine_without_its_backend_is_an_error():
    with pytest.raises(ServerStartError, match="no tensorrtllm backend"), TritonServer(engine="tensorrtllm"):
        pass
