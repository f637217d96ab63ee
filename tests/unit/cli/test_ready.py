"""`llmstack ready`: the document of /readyz as text and JSON, and the exit status."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmstack.cli.app import app
from llmstack.server.ports import listen
from llmstack.supervision.page_server import Page, PageServer
from llmstack.supervision.readiness import SERVER, CanaryResult, Readiness
from tests.releases import write_release


@pytest.fixture
def readiness(tmp_path: Path) -> Readiness:
    return Readiness(write_release(tmp_path / "release"), "echo")


@pytest.fixture
def url(readiness: Readiness) -> Iterator[str]:
    pages = {"/readyz": readiness.readyz, "/other": lambda: Page(b"[1]"), "/text": lambda: Page(b"hello")}
    with PageServer(listen("127.0.0.1", "ready", 0), pages, "ready") as server:
        yield f"http://127.0.0.1:{server.port}"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["ready", *arguments])
    return result.exit_code, result.stdout


def test_a_ready_service_exits_with_0(readiness, url):
    readiness.set_canary(CanaryResult(True, 1.0), is_serving=True)
    readiness.set_problem(SERVER, "")
    status, output = run("--url", f"{url}/readyz")
    assert status == 0
    assert output.startswith("ready\n")
    assert "w4a8" in output


def test_an_unready_service_exits_with_1_and_prints_the_reasons(url):
    status, output = run("--url", f"{url}/readyz")
    assert status == 1
    assert output.startswith("not ready\n  server: the server starts\n")


def test_json_is_the_document_of_readyz(readiness, url):
    status, output = run("--url", f"{url}/readyz", "--json")
    assert status == 1
    assert json.loads(output)["engine_hash"] == readiness.document()["engine_hash"]


def test_proxies_of_the_environment_are_not_used(url, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    _, output = run("--url", f"{url}/readyz")
    assert "server: the server starts" in output


@pytest.mark.parametrize("path", ["/other", "/text", "/missing"])
def test_another_page_is_not_ready(url, path):
    status, output = run("--url", f"{url}{path}", "--json")
    assert status == 1
    assert json.loads(output) == {"ready": False, "reasons": [f"{url}{path} is not a /readyz of llmstack"]}


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/readyz", "no url at all", "ftp://127.0.0.1/readyz"])
def test_an_unreachable_url_is_not_ready(url):
    status, output = run("--url", url, "--json")
    assert status == 1
    assert json.loads(output)["reasons"][0].startswith(f"{url} does not answer: ")
