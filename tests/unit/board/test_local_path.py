"""The login leads to the page that was wanted, and never to another site."""

import html
import re
from urllib.parse import quote, urljoin, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmstack.board.local_path import local_path
from tests.board_client import live_board


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with live_board(tmp_path_factory.mktemp("board")) as live:
        live.token = live.add("Ada")
        yield live


WANTED = ["/", "/alerts", "/alerts?page=2&x=%2F%2Fevil", "/releases/embedded", "/tenants/a%20b%3Fc", "/history?"]
ELSEWHERE = [
    "",
    "alerts",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    "https://evil.example/",
    "https:evil.example",
    "javascript:alert(1)",
    "/alerts\r\nset-cookie: a=b",
    "/ä",
    "/" + "x" * 1_000,
    "/login",
    "/login?next=/alerts",
]


@pytest.mark.parametrize("path", [path for path in WANTED if path != "/history?"])
def test_a_reviewer_lands_on_the_page_that_was_wanted_also_after_a_wrong_token(board, path):
    with httpx.Client(base_url=board.url) as client:
        redirected = client.get(path)
        assert redirected.status_code == 303
        form = client.get(redirected.headers["location"])
        for token, status in (("wrong", 401), (board.token, 303)):
            wanted = html.unescape(re.search(r'name="next" value="([^"]*)"', form.text)[1])
            form = client.post("/login", data={"token": token, "next": wanted})
            assert form.status_code == status
        assert form.headers["location"] == path


@pytest.mark.parametrize("path", ELSEWHERE)
def test_the_login_never_leads_elsewhere(board, path):
    shown = httpx.get(f"{board.url}/login?next={quote(path)}").text
    assert 'name="next" value="/"' in shown
    answer = httpx.post(f"{board.url}/login", data={"token": board.token, "next": path})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_login_without_a_page_leads_to_the_releases(board):
    assert httpx.post(f"{board.url}/login", data={"token": board.token}).headers["location"] == "/"


@pytest.mark.parametrize("path", WANTED)
def test_paths_of_the_board_are_kept(path):
    assert local_path(path) == path


@given(st.text(st.sampled_from("/\\:.?#@ab\t\n\r %ä\x00"), max_size=12))
def test_every_result_is_a_path_of_the_board_as_browsers_read_it(text):
    result = local_path(text)
    as_read = re.sub(r"[\t\r\n]", "", result).replace("\\", "/")
    assert urlsplit(urljoin("http://board.example/login", as_read)).netloc == "board.example"
    assert result.isascii()
    assert not as_read.startswith("//")
