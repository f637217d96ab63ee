"""A real HAProxy on a rendered configuration, with free ports and a certificate of its own."""

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

from llmstack.gateway.backend import Backend
from llmstack.gateway.configuration import GUARD, Gateway, Limits, find_faults, write_gateway
from llmstack.server.process import TritonServer


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def make_certificate(directory: Path) -> Path:
    """A self-signed certificate and its key in one file, for localhost and 127.0.0.1."""
    key, certificate, both = (directory / name for name in ("key.pem", "certificate.pem", "gateway.pem"))
    names = "subjectAltName=DNS:localhost,DNS:gateway,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    return both


def backend_of(server: TritonServer) -> Backend:
    """A server that has no supervisor: its own HTTP port says whether it is ready."""
    return Backend("127.0.0.1", server.ports.http, server.ports.grpc, server.ports.http)


@dataclass
class RunningGateway:
    """`with RunningGateway(directory, servers) as gateway:` - HAProxy ends with the block."""

    directory: Path
    backends: Sequence[Backend]
    limits: Limits = field(default_factory=Limits)
    ready_path: str = "/v2/models/ensemble/ready"
    allow_metadata: bool = False
    accept_proxy: bool = False
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunningGateway:
        self.certificate = make_certificate(self.directory)
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        configuration = self.directory / "haproxy.cfg"
        gateway = Gateway(
            self.backends,
            str(self.certificate),
            str(self.directory / GUARD),
            "127.0.0.1",
            self.http_port,
            self.grpc_port,
            f"127.0.0.1:{self.metrics_port}",
            self.ready_path,
            self.limits,
            self.allow_metadata,
            self.accept_proxy,
        )
        write_gateway(gateway, configuration, find_faults)
        self.log_path = self.directory / "haproxy.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                ["haproxy", "-db", "-f", str(configuration)], stdout=log, stderr=subprocess.STDOUT
            )
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
        context = ssl.create_default_context(cafile=str(self.directory / "certificate.pem"))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    @contextlib.contextmanager
    def connect(self, seconds: float = 10) -> Iterator[ssl.SSLSocket]:
        """A connection to write bytes to as they are."""
        plain = socket.create_connection(("127.0.0.1", self.http_port), timeout=seconds)
        with self.tls("http/1.1").wrap_socket(plain, server_hostname="localhost") as secure:
            yield secure

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10).text

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the metric's samples that have these labels."""
        total = 0.0
        for match in re.finditer(rf"^{name}(?:\{{(.*)\}})? (\S+)$", self.metrics(), re.MULTILINE):
            if all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
                total += float(match[2])
        return total

    def num_refused(self) -> float:
        """Requests that a rule, HAProxy's parser or the guard refused, over both protocols."""
        names = ("haproxy_frontend_requests_denied_total", "haproxy_frontend_request_errors_total")
        return sum(self.metric(name, proxy=proxy) for name in names for proxy in ("http", "grpc"))

    def num_connections_refused(self) -> float:
        """Connections beyond a client's number; HAProxy logs none of them."""
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

    def stop_softly(self) -> None:
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
