"""`llmstack serve` as a container runtime runs it: one process on fixed ports that can be restarted."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx
import psutil

from llm_policy.errors import find_code
from llm_policy.release.release import Release
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.process import LOG_NAME
from tests.releases import change_manifest

STUB = "triton_python_backend_stub"
HOST = "127.0.0.1"
START_TIMEOUT_S = 120.0
Service = TypeVar("Service", bound="LiveService")


class Reply(NamedTuple):
    """One answer over HTTP: outputs by name, or the error's declared code; empty if it has none."""

    status: int
    outputs: dict[str, Any]
    error: str

    @property
    def code(self) -> str:
        code = find_code(self.error)
        return code.value if code else ""


class LiveService:
    """A parent process with its own ports and state directory, which can be killed and started again.

    `options` are further ones of the command. `manifest` overrides entries of the release's manifest, by section. The
    OpenAI API is only served if `serves_openai` is true.
    """

    def __init__(
        self,
        directory: Path,
        engine_name: str = "echo",
        environment: dict[str, str] | None = None,
        *options: str,
        serves_openai: bool = False,
        **manifest: dict,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.state_dir = directory / "state"
        self.release_dir = shutil.copytree(DEFAULT_RELEASE_DIR.resolve(), directory / "release")
        tree = json.loads((self.release_dir / "manifest.json").read_text())
        change_manifest(self.release_dir, **{name: {**tree[name], **section} for name, section in manifest.items()})
        self.output_path = directory / "output.txt"
        self._engine_name, self._environment, self._options = engine_name, environment or {}, options
        ports = free_ports(5)
        self.http_port, self.grpc_port, self.metrics_port, self.ready_port, self.openai_port = ports
        self.serves_openai = serves_openai
        engine = Release.open(self.release_dir).manifest.engine
        self.headers = {"X-Engine-Hash": engine.hash, "X-Quantisation": engine.quantisation}
        self.process: psutil.Popen | None = None

    def __enter__(self: Service) -> Service:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.kill_all()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill_all()

    @property
    def log_path(self) -> Path:
        """The log of the server and its models."""
        return self.state_dir / LOG_NAME

    @property
    def http_url(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"{HOST}:{self.grpc_port}"

    @property
    def metrics_url(self) -> str:
        return f"http://{HOST}:{self.metrics_port}/metrics"

    @property
    def ready_url(self) -> str:
        return f"http://{HOST}:{self.ready_port}/readyz"

    def command(self, *more: str) -> list[str]:
        """The command line of the parent."""
        ports = {"http": self.http_port, "grpc": self.grpc_port, "metrics": self.metrics_port, "ready": self.ready_port}
        return [
            *(sys.executable, "-m", "llmstack", "serve", "--engine", self._engine_name),
            *("--release", str(self.release_dir), "--state-dir", str(self.state_dir)),
            *(word for name, port in ports.items() for word in (f"--{name}-port", str(port))),
            *(("--openai-port", str(self.openai_port)) if self.serves_openai else ("--no-openai",)),
            *("--canary-interval-secs", "1"),
            *self._options,
            *more,
        ]

    def start(self) -> None:
        """Start the parent process without waiting until it is ready."""
        with self.output_path.open("ab") as output:
            self.process = psutil.Popen(
                self.command(), stdout=output, stderr=output, env={**os.environ, **self._environment}
            )

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Wait until /readyz reports ready. Returns the seconds taken."""
        began = time.monotonic()
        wait_until(self.is_ready, timeout_s, self.output)
        return time.monotonic() - began

    def kill_all(self) -> None:
        """Kill the parent process and wait until its descendants have ended."""
        children = self.child_processes()
        if self.process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.process.kill()
            self.process.wait()
        psutil.wait_procs(children, timeout=20)

    def child_processes(self) -> list[psutil.Process]:
        """All descendants of the parent process, including the guide compilers."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return self.process.children(recursive=True)
        return []

    def triton(self) -> psutil.Process:
        """The server process."""
        return next(child for child in self.child_processes() if child.name() == "tritonserver")

    def stub(self, model: str) -> psutil.Process:
        """The Python process of one model."""
        for child in self.triton().children():
            if child.name() == STUB and any(word.startswith(f"{model}_0") for word in child.cmdline()):
                return child
        raise LookupError(model)

    def output(self) -> str:
        """The output of the parent process so far."""
        return self.output_path.read_text()

    def readiness(self) -> dict[str, Any]:
        """The document of /readyz, or a not-ready one if the parent process does not answer."""
        try:
            return dict(httpx.get(self.ready_url, timeout=10).json())
        except httpx.HTTPError:
            return {"ready": False, "reasons": ["no answer"]}

    def is_ready(self) -> bool:
        return self.readiness()["ready"] is True

    def metric(self, series: str) -> float:
        """The value of one series on the metrics page, by its name and labels as printed."""
        for line in httpx.get(self.metrics_url, timeout=10).text.splitlines():
            if line.startswith(f"{series} "):
                return float(line.rsplit(" ", 1)[1])
        raise LookupError(series)

    def send_request(
        self, client: httpx.Client | None = None, headers: dict[str, str] | None = None, **inputs: Any
    ) -> Reply:
        """Send one request over HTTP. Status 0 means that there was no response."""
        tensors = [_tensor(name, value) for name, value in {"text_input": "hello", "max_tokens": 4, **inputs}.items()]
        send = client.post if client is not None else httpx.post
        try:
            answer = send(
                f"{self.http_url}/v2/models/ensemble/infer",
                json={"inputs": tensors},
                headers={**self.headers, **(headers or {})},
                timeout=60,
            )
        except httpx.HTTPError as error:
            return Reply(0, {}, type(error).__name__)
        if answer.status_code != 200:
            return Reply(answer.status_code, {}, answer.json()["error"])
        return Reply(200, {output["name"]: output["data"] for output in answer.json()["outputs"]}, "")

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The result of a query on the ledger."""
        with closing(sqlite3.connect(self.state_dir / "ledger.db", timeout=30)) as connection:
            return connection.execute(query, values).fetchall()

    def llmstack(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command on this state directory."""
        command = [sys.executable, "-m", "llmstack", *arguments]
        environment = {**os.environ, "LLMSTACK_STATE_DIR": str(self.state_dir)}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)


def free_ports(number: int) -> list[int]:
    """Free ports below the range from which the kernel gives ports to clients, so that none takes one meanwhile."""
    found: list[int] = []
    while len(found) < number:
        port = random.randrange(15_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as candidate:
            candidate.bind((HOST, port))
            found += [port] if port not in found else []
    return found


def is_listening(port: int) -> bool:
    """Whether a process accepts connections on `port`."""
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0


def _tensor(name: str, value: Any) -> dict[str, Any]:
    data_type = "INT32" if isinstance(value, int) else "BYTES"
    return {"name": name, "shape": [1, 1], "datatype": data_type, "data": [value]}


def wait_until(
    condition: Callable[[], bool],
    timeout_s: float = 60.0,
    explain: Callable[[], str] = lambda: "condition not met in time",
) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)
