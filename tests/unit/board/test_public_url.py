"""Host names and origins: pages and forms only under the board's own names, the machine API under any."""

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import httpx
import pytest
from typer.testing import CliRunner, Result

from llmstack.board.public_url import PublicUrl, PublicUrlError, is_loopback
from llmstack.cli.board import app
from tests.board_client import alert, live_board, signed
from tests.unit.board.test_pages import NAME, form


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with live_board(tmp_path_factory.mktemp("board"), public_url="http://board.example") as live:
        live.token = live.add("Ada")
        yield live


def log_in(board, host: str, origin: str | None = None) -> int:
    headers = {"host": host, "origin": origin or f"http://{host}"}
    return httpx.post(f"{board.url}/login", data={"token": board.token}, headers=headers).status_code


@pytest.mark.parametrize(
    "host", ["localhost:8004", "127.0.0.1:9999", "[::1]:8004", "board.example", "BOARD.example:80"]
)
def test_forms_are_accepted_under_each_of_the_boards_names_and_a_tunnels_port(board, host):
    assert httpx.get(f"{board.url}/login", headers={"host": host}).status_code == 200
    assert log_in(board, host.lower()) == 303


@pytest.mark.parametrize(
    "host", ["evil.example", "board.example.evil.example", "localhost@evil.example", "[::2]", "[", ""]
)
def test_pages_are_not_shown_under_other_names(board, host):
    assert not PublicUrl("http://board.example").allows_host(host)
    if host:
        assert httpx.get(f"{board.url}/login", headers={"host": host}).status_code == 400


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8004", "http://localhost:9000"),  # another service on the same machine
        ("localhost:8004", "http://evil.example"),
        ("localhost:8004", "null"),
        ("board.example", "http://board.example:8080"),
    ],
)
def test_a_form_from_another_origin_is_rejected(board, host, origin):
    assert log_in(board, host, origin) == 403


def test_a_proxy_may_use_the_boards_address_as_host(board):
    assert log_in(board, "127.0.0.1:8004", "http://board.example") == 303


def test_machines_may_use_any_host_name(board):
    host = {"host": "board:8004"}
    body = alert()
    headers = signed(board.secret, body, json.loads(body)["id"]) | host
    assert httpx.post(f"{board.url}/webhooks", content=body, headers=headers).status_code == 200
    assert httpx.get(f"{board.url}/healthz", headers=host).status_code == 200
    assert httpx.get(f"{board.url}/api/signoffs", headers=host).status_code == 401
    assert httpx.get(f"{board.url}/", headers=host).status_code == 400


def test_the_board_works_on_ipv6(tmp_path):
    with live_board(tmp_path, host="::1") as board:
        client = board.log_in(board.add("Ada"))
        assert client.get(f"/releases/{NAME}").status_code == 200
        assert board.send(alert()).status_code == 200


@pytest.mark.parametrize(
    "url", ["board.example", "ftp://board.example", "https://", "https://b.example/board", "http://["]
)
def test_an_invalid_public_url_is_rejected(url):
    with pytest.raises(PublicUrlError, match="is not a URL such as"):
        PublicUrl(url)


def test_https_binds_the_cookie_to_the_host_and_to_https(tmp_path):
    with live_board(tmp_path, public_url="https://board.example") as board:
        headers = {"host": "board.example", "origin": "https://board.example"}
        answer = httpx.post(f"{board.url}/login", data={"token": board.add("Ada")}, headers=headers)
        name, *flags = answer.headers["set-cookie"].lower().split("; ")
        assert name.startswith("__host-llmstack_board=")
        assert {"secure", "httponly", "samesite=strict", "path=/"} <= set(flags)
        assert not any(flag.startswith("domain") for flag in flags)
        assert "max-age" in answer.headers["strict-transport-security"]
        plain = {"host": "board.example", "origin": "http://board.example"}
        assert httpx.post(f"{board.url}/login", data={"token": "x"}, headers=plain).status_code == 403


def test_a_session_expires_after_eight_hours(tmp_path):
    with live_board(tmp_path) as board, closing(board.log_in(board.add("Ada"))) as client:
        sent, now_ns = form(client), time.time_ns()
        with sqlite3.connect(board.settings.database) as connection:
            (expires_ns,) = connection.execute("SELECT expires_ns FROM session").fetchone()
            connection.execute("UPDATE session SET expires_ns = ?", (now_ns,))
        assert 7.9 < (expires_ns - now_ns) / 3.6e12 < 8
        assert client.get("/", follow_redirects=False).headers["location"] == "/login"
        assert client.post(f"/releases/{NAME}/sign", data=sent).status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_addresses_are_recognised(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "board"])
def test_other_addresses_are_not_loopback(host):
    assert not is_loopback(host)


def run_command(*arguments: str) -> Result:
    """Run `llmstack board` in this process: a process of its own takes a second to start."""
    return CliRunner().invoke(app, list(arguments))


def test_an_address_that_others_can_reach_needs_a_public_url(tmp_path):
    arguments = ("serve", "--webhook-secret-file", str(tmp_path / "secret"), "--board-dir", str(tmp_path))
    done = run_command(*arguments, "--host", "0.0.0.0")
    assert done.exit_code == 2
    assert "--public-url" in done.stderr


def test_serve_listens_on_loopback_and_reviewers_can_log_in(tmp_path):
    from tests.webhook_receiver import new_secret, write_secrets

    board_dir = ("--board-dir", str(tmp_path / "board"))
    token = run_command("reviewer", "add", "Ada Lovelace", *board_dir).stdout.strip()
    assert run_command("reviewer", "add", "Ada Lovelace", *board_dir).exit_code == 2
    accounts = json.loads(run_command("reviewer", "list", "--json", *board_dir).stdout)
    assert [(each["name"], each["kind"]) for each in accounts] == [("Ada Lovelace", "reviewer")]
    secret = write_secrets(tmp_path / "secret", new_secret())
    command = [sys.executable, "-u", "-m", "llmstack", "board", "serve", "--port", "0", *board_dir]
    with subprocess.Popen(
        [*command, "--webhook-secret-file", str(secret)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            url = process.stdout.readline().split()[2].rstrip(",")
            assert url.startswith("http://127.0.0.1:")
            origin = {"origin": url.replace("127.0.0.1", "localhost")}
            local = origin["origin"]
            assert (
                httpx.post(f"{url}/login", data={"token": token}, headers={"host": local[7:], **origin}).status_code
                == 303
            )
        finally:
            process.terminate()
            process.wait(timeout=20)
