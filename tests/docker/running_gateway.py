"""A real HAProxy with a rendered configuration, free ports and its own certificate."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from llmstack.bench.gateway_certificate import ROOT_FILE, make_certificate
from llmstack.gateway.backend import Address, Backend
from llmstack.gateway.configuration import GUARD_FILE, GatewayConfiguration, Limits, haproxy_errors, write_configuration
from llmstack.server.process import TritonServer


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def backend_of(server: TritonServer) -> Backend:
    """A backend without a supervisor: readiness is checked on the server's HTTP port."""
    return Backend("127.0.0.1", server.ports.http, server.ports.grpc, server.ports.http)


@dataclass
class RunningGateway:
    """A context manager that runs HAProxy with its files in `directory`."""

    directory: Path
    backends: Sequence[Backend]
    limits: Limits = field(default_factory=Limits)
    ready_path: str = "/v2/models/ensemble/ready"
    allow_metadata: bool = False
    accept_proxy: bool = False
    openai_servers: Sequence[Address] = ()
    requires_api_keys: bool = False
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunningGateway:
        self.certificate = make_certificate(self.directory)
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        path = self.directory / "haproxy.cfg"
        configuration = GatewayConfiguration(
            backends=self.backends,
            certificate=str(self.certificate),
            guard=str(self.directory / GUARD_FILE),
            host="127.0.0.1",
            http_port=self.http_port,
            grpc_port=self.grpc_port,
            metrics_address=f"127.0.0.1:{self.metrics_port}",
            ready_path=self.ready_path,
            limits=self.limits,
            allow_metadata=self.allow_metadata,
            accept_proxy=self.accept_proxy,
            openai_servers=self.openai_servers,
            requires_api_keys=self.requires_api_keys,
        )
        write_configuration(configuration, path, haproxy_errors)
        self.log_path = self.directory / "haproxy.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(["haproxy", "-db", "-f", str(path)], stdout=log, stderr=subprocess.STDOUT)
        self.wait_until(lambda: self.num_servers_up() == len(self.backends))
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def http_url(self) -> str:
        return f"https://127.0.0.1:{self.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"localhost:{self.grpc_port}"

    def tls(self, *protocols: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.directory / ROOT_FILE))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    @contextlib.contextmanager
    def connect(self, seconds: float = 10) -> Iterator[ssl.SSLSocket]:
        """A TLS connection for raw HTTP/1.1 bytes."""
        plain = socket.create_connection(("127.0.0.1", self.http_port), timeout=seconds)
        with self.tls("http/1.1").wrap_socket(plain, server_hostname="localhost") as secure:
            yield secure

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10).text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the metric's samples with these labels."""
        total = 0.0
        for match in re.finditer(rf"^{name}(?:\{{(.*)\}})? (\S+)$", self.metrics(), re.MULTILINE):
            if all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
                total += float(match[2])
        return total

    def num_rejected(self) -> float:
        """Requests of both protocols that a rule, HAProxy's parser or the guard rejected."""
        names = ("haproxy_frontend_requests_denied_total", "haproxy_frontend_request_errors_total")
        return sum(self.metric(name, proxy=proxy) for name in names for proxy in ("http", "grpc"))

    def num_connections_rejected(self) -> float:
        """Connections beyond a client's limit. HAProxy does not log them."""
        names = ("haproxy_frontend_denied_connections_total", "haproxy_frontend_denied_sessions_total")
        return sum(self.metric(name, proxy=proxy) for name in names for proxy in ("http", "grpc_tls"))

    def num_servers_up(self) -> int:
        try:
            return int(self.metric("haproxy_backend_active_servers", proxy="triton_http"))
        except httpx.HTTPError:
            return -1

    def log(self) -> list[dict[str, Any]]:
        lines = self.log_path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def begin_soft_stop(self) -> None:
        self.process.send_signal(signal.SIGUSR1)

    def wait_until(self, condition: Any, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log_path.read_text()
            assert time.monotonic() < end, self.log_path.read_text()
            time.sleep(0.1)


@contextlib.contextmanager
def running_gateway(directory: Path, *servers: TritonServer, **settings: Any) -> Iterator[RunningGateway]:
    with RunningGateway(directory, [backend_of(server) for server in servers], **settings) as gateway:
        yield gateway
