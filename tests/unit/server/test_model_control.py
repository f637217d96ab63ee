"""Loading one model anew: what Triton is asked, and what its refusals become."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmstack.server.command import ADMIN_KEY_HEADER
from llmstack.server.model_control import ModelReloadError, reload_model

CONFIG = {"name": "preprocess", "backend": "python", "parameters": {"own": {"string_value": "kept"}}}


class Triton(ThreadingHTTPServer):
    """Answers as Triton's model control does, and keeps what it is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.loads: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.load_status, self.load_text = 200, ""
        self.is_silent = threading.Event()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Triton

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/v2/models/preprocess/config" else 404, json.dumps(CONFIG))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.loads.append({"path": self.path, **body})
        if self.server.is_silent.is_set():
            self.server.closing.wait(60)
        self._answer(self.server.load_status, self.server.load_text)

    def _answer(self, status: int, text: str) -> None:
        self.server.keys.add(self.headers[ADMIN_KEY_HEADER])
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def triton() -> Iterator[Triton]:
    with Triton() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def test_the_model_gets_its_own_configuration_with_a_new_parameter_each_time(triton):
    for _ in range(2):
        reload_model(triton.url, "key", "preprocess", 10)
    configs = [json.loads(load["parameters"]["config"]) for load in triton.loads]
    assert {load["path"] for load in triton.loads} == {"/v2/repository/models/preprocess/load"}
    assert triton.keys == {"key"}
    values = set()
    for config in configs:
        values.add(config["parameters"].pop("loaded_anew")["string_value"])
        assert config == CONFIG
    assert len(values) == 2


def test_a_model_that_can_not_be_loaded_is_named_with_tritons_reason(triton):
    triton.load_status, triton.load_text = 400, '{"error": "failed to load: no such file"}'
    with pytest.raises(ModelReloadError, match=r"preprocess can't be loaded: .*no such file"):
        reload_model(triton.url, "key", "preprocess", 10)


def test_a_model_without_a_configuration_is_not_loaded(triton):
    with pytest.raises(ModelReloadError, match="unknown can't be loaded"):
        reload_model(triton.url, "key", "unknown", 10)
    assert triton.loads == []


def test_a_load_that_takes_too_long_ends_with_an_error(triton):
    triton.is_silent.set()
    with pytest.raises(ModelReloadError, match="preprocess is not loaded after 0 s"):
        reload_model(triton.url, "key", "preprocess", 0.2)


def test_a_server_that_does_not_answer_is_an_error(triton):
    url = triton.url
    triton.server_close()
    with pytest.raises(ModelReloadError, match="preprocess can't be loaded"):
        reload_model(url, "key", "preprocess", 10)
