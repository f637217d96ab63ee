"""The board shows the readiness of a real `llmstack serve`."""

import html
from contextlib import closing

from tests.board_client import live_board


def test_the_board_shows_the_services_readiness(tmp_path, echo_service):
    with (
        live_board(tmp_path, ready_url=echo_service.ready_url) as board,
        closing(board.log_in(board.add("Ada"))) as client,
    ):
        page = html.unescape(client.get("/").text)
    assert "✔ ready" in page
    for value in (echo_service.headers["X-Engine-Hash"], str(echo_service.release_dir), "canary.latency_ms"):
        assert value in page
