"""Runs the API on a port of its own, or on a socket that a parent process listens on."""

from __future__ import annotations

import resource
import socket
from collections.abc import Sequence
from typing import NamedTuple

import uvicorn
from starlette.types import ASGIApp

from llmstack.openai.app import OpenAIApi, make_app
from llmstack.openai.http_protocol import TimedProtocol
from llmstack.openai.model_names import ModelNames
from llmstack.openai.usage_client import UsageClient
from llmstack.server.ports import listen

MAX_OPEN_FILES = 65_536  # each connection is one; a shell's usual limit is 1,024
_DRAIN_S = 10  # for answers that Triton has given and a client still reads


class OpenAIServerSettings(NamedTuple):
    """`addresses` are Triton's gRPC ports as `host:port`, `readiness` is the URL of a server's readiness port.

    `socket_fd` goes before `host` and `port`.
    """

    addresses: Sequence[str]
    host: str
    port: int
    names: ModelNames
    readiness: str | None = None
    socket_fd: int | None = None


def server_config(app: ASGIApp) -> uvicorn.Config:
    """The settings of the HTTP server."""
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_DRAIN_S,
    )


class OpenAIServer:
    """The API, listening.

    Raises:
        ServerStartError: the port is in use.
    """

    def __init__(self, settings: OpenAIServerSettings) -> None:
        if settings.socket_fd is not None:
            self._socket = socket.socket(fileno=settings.socket_fd)
        else:
            self._socket = listen(settings.host, "openai", settings.port)
        # Accepted connections inherit it. Otherwise an answer's head waits 40 ms for the client's acknowledgement.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self._socket.getsockname()[1]
        self._server = uvicorn.Server(server_config(make_app(_build_api(settings))))

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM; answers that have begun are completed first."""
        _raise_open_files()
        self._server.run(sockets=[self._socket])


def _build_api(settings: OpenAIServerSettings) -> OpenAIApi:
    return OpenAIApi(settings.addresses, settings.names, UsageClient(settings.readiness))


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
