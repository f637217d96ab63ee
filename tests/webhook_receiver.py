"""An HTTP server that receives webhooks, verifies them and behaves as a test plans it."""

import base64
import json
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from standardwebhooks import Webhook

from llmstack.events.endpoint import Endpoint
from llmstack.events.secret_file import SecretFile

Behaviour = Callable[["RequestHandler"], None]


class ReceivedRequest(NamedTuple):
    id: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)


class WebhookReceiver:
    """Answers 200 to every request after the behaviours in `plan`, one per request, are used up."""

    def __init__(self, secret: str, port: int = 0, verifies: bool = True, tls: ssl.SSLContext | None = None) -> None:
        self.secret = secret
        self.plan: list[Behaviour] = []
        self.received: list[ReceivedRequest] = []
        self.invalid_signatures: list[ReceivedRequest] = []
        self.num_concurrent = 0
        self.max_concurrent = 0
        self.closing = threading.Event()
        self.verifies = verifies
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), RequestHandler)
        self._server.daemon_threads = True
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._server.receiver = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/hook/path-token"

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.received]

    def __enter__(self) -> "WebhookReceiver":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def endpoint(self, directory: Path, name: str = "readiness", path: str = "") -> Endpoint:
        """The endpoint of this receiver for the sender."""
        return Endpoint(name, self.url + path, SecretFile(write_secrets(directory / f"{name}.secret", self.secret)))

    def receive(self, request: ReceivedRequest) -> Behaviour:
        with self._lock:
            self.received.append(request)
            if self.verifies:
                try:
                    Webhook(self.secret).verify(request.body, request.headers)
                except Exception:
                    self.invalid_signatures.append(request)
            return self.plan.pop(0) if self.plan else respond(200)

    def count_request(self, change: int) -> None:
        with self._lock:
            self.num_concurrent += change
            self.max_concurrent = max(self.max_concurrent, self.num_concurrent)


class RequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    is_open = False

    def do_POST(self) -> None:
        receiver = self.receiver
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers["content-length"]))
        if len(body) < int(headers["content-length"]):  # the sender was killed before it sent the whole request
            self.close_connection = True
            return
        receiver.count_request(1)
        self.is_open = True
        try:
            with suppress(OSError):
                receiver.receive(ReceivedRequest(headers.get("webhook-id", ""), headers, body))(self)
        finally:
            self.close()

    do_GET = do_POST

    def end_headers(self) -> None:
        """Count the request as finished before the sender sees the response and sends the next one."""
        self.close()
        super().end_headers()

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.receiver.count_request(-1)

    @property
    def receiver(self) -> WebhookReceiver:
        return self.server.receiver  # type: ignore[attr-defined]

    def log_message(self, *args: object) -> None:
        pass


def respond(status: int, **headers: str) -> Behaviour:
    def behave(handler: RequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return behave


def hang(handler: RequestHandler) -> None:
    handler.receiver.closing.wait(60)
    handler.close_connection = True


def reset(handler: RequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def trickle_headers(handler: RequestHandler) -> None:
    """Send a byte now and then, so that no read times out and the response headers never end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.receiver.closing.wait(0.05):
        handler.wfile.write(b"x")
    handler.close_connection = True


def endless_body(handler: RequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("content-length", str(1 << 40))
    handler.end_headers()
    while not handler.receiver.closing.wait(0.01):
        handler.wfile.write(b"x" * 65_536)
    handler.close_connection = True


def new_secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


def write_secrets(path: Path, *secrets: str) -> Path:
    path.write_text("".join(f"{secret}\n" for secret in secrets))
    return path
