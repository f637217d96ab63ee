"""The least that a front end costs: the same HTTP server and gRPC client, and bytes that pass between them unread.

A request's body is a serialized gRPC request, its answer the serialized response.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from llmstack.openai.openai_server import server_config
from llmstack.openai.request_headers import read_headers
from llmstack.server.ports import listen
from llmstack.server.process_group import launcher, stop_group

_HOST = "127.0.0.1"
_METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
_STOP_S = 10.0


class BareFrontEnd:
    """The application before Triton's gRPC port `triton` (`host:port`)."""

    def __init__(self, triton: str) -> None:
        self._triton = triton
        self._call: Any = None

    @contextlib.asynccontextmanager
    async def connected(self, app: object) -> AsyncIterator[None]:
        """Open the connection on the server's event loop, and close it at its end."""
        async with grpc.aio.insecure_channel(self._triton) as channel:
            self._call = channel.unary_unary(_METHOD)
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to Triton and its response back."""
        parts, is_complete = [], False
        while not is_complete:
            message = await receive()
            parts.append(message.get("body", b""))
            is_complete = not message.get("more_body", False)
        answer = await self._call(b"".join(parts), metadata=read_headers(scope["headers"]).metadata)
        head = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": answer})


def make_app(triton: str) -> ASGIApp:
    """The ASGI application."""
    bare = BareFrontEnd(triton)
    starlette = Starlette(lifespan=bare.connected)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (starlette if scope["type"] == "lifespan" else bare)(scope, receive, send)

    return app


@contextlib.contextmanager
def bare_front_end(triton: str) -> Iterator[tuple[str, int]]:
    """A process of it: its URL and process id."""
    with listen(_HOST, "openai", 0) as listener:
        descriptor = listener.fileno()
        command = [*launcher(signal.SIGKILL), sys.executable, "-m", __name__, triton, str(descriptor)]
        process = subprocess.Popen(command, pass_fds=(descriptor,), env=dict(os.environ), start_new_session=True)
        try:
            yield f"http://{_HOST}:{listener.getsockname()[1]}", process.pid
        finally:
            stop_group(process, _STOP_S)


if __name__ == "__main__":
    uvicorn.Server(server_config(make_app(sys.argv[1]))).run(sockets=[socket.socket(fileno=int(sys.argv[2]))])
