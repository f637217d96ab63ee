"""The gateway of a benchmark: a real HAProxy with the rendered configuration in front of one server."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import httpx

from llmstack.bench.gateway_certificate import GATEWAY_FILE, ROOT_FILE, make_certificate
from llmstack.bench.process_start import wait_until_ready
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
_START_TIMEOUT_S = 30.0
_CONFIGURATION = "haproxy.cfg"
_IS_READY = 'haproxy_backend_active_servers{proxy="triton_http"} 1'


class MeasuredGateway:
    """HAProxy on free ports, with these limits; keys are required.

    `with` starts it and waits until it has found the server ready. Its files are in `directory`.
    """

    def __init__(self, directory: Path, server: ServerUrls, ready_port: int, limits: Limits) -> None:
        http_port, grpc_port, self._metrics_port = Ports().choose(FLOOD_ADDRESS)
        self._directory = directory
        self._configuration = GatewayConfiguration(
            backends=[Backend(FLOOD_ADDRESS, _port(server.http_url), _port(server.grpc_url), ready_port)],
            certificate=str(directory / GATEWAY_FILE),
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
        self.urls = ServerUrls(*address, root_certificates=str(directory / ROOT_FILE))

    def __enter__(self) -> MeasuredGateway:
        """Start it.

        Raises:
            ServerStartError: a program is missing, or HAProxy does not find the server ready.
            GatewayError: HAProxy rejects the configuration.
        """
        if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
            raise ServerStartError(f"{' and '.join(missing)} can't be found", "install them, or omit --gateway")
        self._directory.mkdir(parents=True, exist_ok=True)
        make_certificate(self._directory)
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
        try:
            wait_until_ready(self._process, self._is_ready, _START_TIMEOUT_S, "the gateway", self.log_path)
        except BaseException:
            self._stop()
            raise

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
