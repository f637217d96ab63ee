"""The board shows the readiness of a real `llmstack serve`."""

import html
import json
import socket
import subprocess
import sys
from contextlib import ExitStack, closing

import httpx
import pytest

from llm_policy.release.release import Release
from llmstack.board.template_filters import format_usd
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.ports import Ports
from tests.board_client import live_board
from tests.integration.live_service import wait_until
from tests.webhook_receiver import new_secret, write_secrets

HOST = "127.0.0.1"
# What a client sends and then stops: nothing, a part of the head, a part of the body.
INCOMPLETE = (
    b"",
    b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n",
    b"POST /webhooks HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n\r\n{",
)


def test_the_board_shows_the_services_readiness(tmp_path, echo_service):
    with (
        live_board(tmp_path, ready_url=echo_service.ready_url) as board,
        closing(board.log_in(board.add("Ada"))) as client,
    ):
        page = html.unescape(client.get("/").text)
    assert "✔ ready" in page
    for value in (echo_service.headers["X-Engine-Hash"], str(echo_service.release_dir), "canary.latency_ms"):
        assert value in page


def test_a_named_tenants_use_is_on_the_board_and_among_the_metrics(tmp_path, echo_service):
    live = echo_service
    others = 'llm_tenant_requests_total{outcome="closed",tenant="other"}'
    num_others = live.metric(others)
    created = live.llmstack("tenant", "create", "acme", "--max-usd-per-day", "0.02", "--json")
    key = {"X-Api-Key": json.loads(created.stdout)["new_key"]["key"]}
    replies = [live.send_request(headers=key), live.send_request(headers=key, task="unknown"), live.send_request()]
    wait_until(lambda: live.metric(others) == num_others + 1)
    ((cost,),) = live.rows("SELECT sum(nano_usd) FROM usage_day WHERE tenant = 'acme'")
    assert round(live.metric('llm_tenant_cost_usd_total{tenant="acme"}') * 1e9) == cost > 0
    assert live.metric('llm_tenant_requests_total{outcome="closed",tenant="acme"}') == 1
    assert live.metric('llm_tenant_requests_total{outcome="refused",tenant="acme"}') == 1
    assert live.metric('llm_tenant_requests_total{outcome="closed",tenant="beta"}') == 0
    assert live.metric('llm_tenant_budget_usd{budget="day",tenant="acme"}') == 0.02
    assert round(live.metric('llm_tenant_budget_spent_usd{budget="day",tenant="acme"}') * 1e9) == cost
    assert live.metric('llm_metrics_part_up{part="tenants"}') == 1
    with (
        live_board(tmp_path, state_dir=live.state_dir) as board,
        closing(board.log_in(board.add("Ada"))) as client,
    ):
        page, tenant = client.get("/tenants").text, client.get("/tenants/acme").text
    assert [reply.status for reply in replies] == [200, 400, 200]
    assert f"{format_usd(cost)} of $0.02" in page
    assert "unknown_task" in tenant
    assert Release.open(DEFAULT_RELEASE_DIR).manifest.engine.model in tenant


@pytest.mark.slow  # tests/unit/board/test_bounded_protocol.py has the same in one process
def test_two_hundred_half_open_connections_keep_nobody_from_the_board(tmp_path):
    secrets, port = write_secrets(tmp_path / "secret", new_secret()), Ports().choose(HOST).http
    url = f"http://{HOST}:{port}/login"

    def status() -> int:
        try:
            return httpx.get(url, timeout=20).status_code
        except httpx.ConnectError:
            return 0

    command = [sys.executable, "-m", "llmstack", "board", "serve", "--webhook-secret-file", str(secrets)]
    board = subprocess.Popen([*command, "--board-dir", str(tmp_path), "--port", str(port)])
    try:
        wait_until(lambda: status() == 200)
        with ExitStack() as opened:
            for number in range(300):
                connection = opened.enter_context(socket.create_connection((HOST, port), 20))
                connection.sendall(INCOMPLETE[number % len(INCOMPLETE)])
            assert {status() for _ in range(30)} == {200}
        board.terminate()
        assert board.wait(60) in (0, -15)
    finally:
        board.kill()
        board.wait()
