"""An HTTP server that answers as Triton does, with scripted responses."""

import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ScriptedTriton:
    """Answers inference of the ensemble with `status` and `body`, or not at all while `hangs`.

    With a `stream_body` the model of streams answers with it in the ensemble's place. Other models answer unless they
    are among `hung_models`. Statistics are those of `calls`.
    """

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = {}
        self.stream_body: Any = None
        self.hangs = False
        self.hung_models: set[str] = set()
        self.calls: dict[str, tuple[int, int]] = {}  # model: succeeded, failed
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []  # headers in lower case, inputs by name
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.scripted = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> "ScriptedTriton":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def infer(self, model: str, request: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
        if model == "ensemble_stream" and self.stream_body is not None and request["text_input"]:
            self.requests.append(({}, request))
            if self.hangs:
                self._released.wait(30)
            return self.status, self.stream_body
        if model != "ensemble":
            if model in self.hung_models:
                self._released.wait(30)
            return 400, {"error": "invalid_input: as it should be"}
        self.requests.append((headers, {each["name"]: each["data"][0] for each in request["inputs"]}))
        if self.hangs:
            self._released.wait(30)
        return self.status, self.body

    def statistics(self) -> tuple[int, Any]:
        models = [
            {"name": name, "inference_stats": {"success": {"count": succeeded}, "fail": {"count": failed}}}
            for name, (succeeded, failed) in self.calls.items()
        ]
        return 200, {"model_stats": models}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        model = self.path.split("/")[3]
        self._send(*self.server.scripted.infer(model, request, headers))  # type: ignore[attr-defined]

    def do_GET(self) -> None:
        self._send(*self.server.scripted.statistics())  # type: ignore[attr-defined]

    def _send(self, status: int, body: Any) -> None:
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        with suppress(OSError):
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    def log_message(self, *args: object) -> None:
        pass
