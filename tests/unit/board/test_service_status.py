"""The overview follows the service's readiness, also when the service ends."""

import html
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmstack.board import service_status
from tests.board_client import live_board


class ReadyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"ready": true, "reasons": [], "release": "/releases/r7"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def test_the_overview_shows_the_services_readiness_and_its_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_status, "MAX_AGE_S", -1.0)  # each page asks again
    service = ThreadingHTTPServer(("127.0.0.1", 0), ReadyPage)
    threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    ready_url = f"http://127.0.0.1:{service.server_address[1]}/readyz"
    with live_board(tmp_path, ready_url=ready_url) as board, closing(board.log_in(board.add("Ada"))) as client:
        page = html.unescape(client.get("/").text)
        assert "✔ ready" in page
        assert "/releases/r7" in page
        service.shutdown()
        service.server_close()
        page = html.unescape(client.get("/").text)
        assert "✔ ready" not in page
        assert f"no answer from {ready_url}" in page
