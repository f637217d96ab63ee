"""The gateway of a benchmark: a real HAProxy with the rendered configuration in front of one server."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import httpx

from llmstack.client.ensemble_client import ServerUrls
from llmstack.gateway.backend import Backend
from llmstack.gateway.configuration import (
    GUARD_FILE,
    GatewayConfiguration,
    Limits,
    haproxy_errors,
    write_configuration,
)
from llmstack.server.error import ServerStartError
from llmstack.server.ports import Ports

FLOOD_ADDRESS = "127.0.0.1"
"""The gateway's own address, and so that of every client which binds none."""
POLITE_ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")
"""One for each polite client: to the gateway they are clients of their own."""
_PROGRAMS = ("haproxy", "openssl")
_START_TIMEOUT_S, _POLL_S = 30.0, 0.1
_CONFIGURATION = "haproxy.cfg"
_IS_READY = 'haproxy_backend_active_servers{proxy="triton_http"} 1'


class MeasuredGateway:
    """HAProxy on free ports, with these limits; keys are required.

    `with` starts it and waits until it has found the server ready. Its files are in `directory`.
    """

    def __init__(self, directory: Path, server: ServerUrls, ready_port: int, limits: Limits) -> None:
        http_port, grpc_port, self._metrics_port = Ports().choose(FLOOD_ADDRESS)
        self._directory = directory
        self._certificate = directory / "gateway.pem"
        self._configuration = GatewayConfiguration(
            backends=[Backend(FLOOD_ADDRESS, _port(server.http_url), _port(server.grpc_url), ready_port)],
            certificate=str(self._certificate),
            guard=str(directory / GUARD_FILE),
            host=FLOOD_ADDRESS,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_address=f"{FLOOD_ADDRESS}:{self._metrics_port}",
            limits=limits,
            exposes_openai=False,
            requires_api_keys=True,
        )
        address = f"https://{FLOOD_ADDRESS}:{http_port}", f"{FLOOD_ADDRESS}:{grpc_port}"
        self.urls = ServerUrls(*address, root_certificates=str(directory / "root.pem"))

    def __enter__(self) -> MeasuredGateway:
        """Start it.

        Raises:
            ServerStartError: a program is missing, or HAProxy does not find the server ready.
            GatewayError: HAProxy rejects the configuration.
        """
        if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
            raise ServerStartError(f"{' and '.join(missing)} can't be found", "install them, or omit --gateway")
        self._directory.mkdir(parents=True, exist_ok=True)
        self._make_certificate()
        write_configuration(self._configuration, self._directory / _CONFIGURATION, haproxy_errors)
        self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """HAProxy's process."""
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """HAProxy's output, which has one line for each request."""
        return self._directory / "haproxy.log"

    def restart(self) -> None:
        """Begin all its counts anew: what one flood did counts against no later one.

        Raises:
            ServerStartError: HAProxy does not find the server ready.
        """
        self._stop()
        self._start()

    def _start(self) -> None:
        command = ["haproxy", "-db", "-f", str(self._directory / _CONFIGURATION)]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._stop()
                last_lines = self.log_path.read_text("utf-8", "replace").splitlines()[-5:]
                raise ServerStartError("\n".join(last_lines) or "the gateway is not ready", f"read {self.log_path}")
            time.sleep(_POLL_S)

    def _make_certificate(self) -> None:
        root, key = Path(str(self.urls.root_certificates)), self._directory / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        command += ["-addext", f"subjectAltName=DNS:localhost,IP:{FLOOD_ADDRESS}", "-keyout", str(key)]
        subprocess.run([*command, "-out", str(root)], check=True, capture_output=True)
        self._certificate.write_bytes(root.read_bytes() + key.read_bytes())

    def _is_ready(self) -> bool:
        try:
            url = f"http://{FLOOD_ADDRESS}:{self._metrics_port}/metrics"
            return _IS_READY in httpx.get(url, timeout=5, trust_env=False).text
        except httpx.HTTPError:
            return False

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])
