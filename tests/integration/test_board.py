"""The board shows the readiness of a real `llmstack serve`."""

import html
from contextlib import closing

import pytest

from tests.board_client import live_board
from tests.integration.live_service import LiveService, wait_until

pytestmark = pytest.mark.server


def test_the_board_shows_the_services_readiness_and_its_absence(tmp_path):
    with (
        LiveService(tmp_path / "service") as service,
        live_board(tmp_path, ready_url=service.ready_url) as board,
        closing(board.log_in(board.add("Ada"))) as client,
    ):
        page = html.unescape(client.get("/").text)
        assert "✔ ready" in page
        for value in (service.headers["X-Engine-Hash"], str(service.release_dir), "canary.latency_ms"):
            assert value in page
        service.kill_all()
        wait_until(lambda: f"no answer from {service.ready_url}" in html.unescape(client.get("/").text))
