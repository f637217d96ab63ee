"""Pages need a reviewer's session, forms need its CSRF token, and all content is escaped."""

import re
import time
from contextlib import closing

import httpx
import pytest

from llm_policy.ledger.outbox import new_event
from llm_policy.release.release import Release
from llmstack.board.board_database import open_board
from llmstack.board.event_store import store_event
from llmstack.board.pages import alerts_page
from llmstack.board.security_headers import CONTENT_SECURITY_POLICY
from llmstack.board.sessions import Session
from llmstack.board.webhook_verifier import CloudEvent
from llmstack.paths import DEFAULT_RELEASE_DIR
from tests.board_client import alert, live_board

RELEASE = Release.open(DEFAULT_RELEASE_DIR)
NAME = DEFAULT_RELEASE_DIR.resolve().name
HASHES = {"engine_hash": RELEASE.manifest.engine.hash, "manifest_hash": RELEASE.manifest_hash}
PAGES = ["/", "/alerts", "/tenants", "/tenants/acme", "/history", f"/releases/{NAME}"]
SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with live_board(tmp_path_factory.mktemp("board")) as live:
        live.token = live.add("Ada")
        yield live


@pytest.fixture
def ada(board):
    with closing(board.log_in(board.token)) as client:
        yield client


def csrf_token(client: httpx.Client) -> str:
    return re.search(r'name="csrf_token" value="([^"]+)"', client.get("/").text)[1]


def form(client: httpx.Client, **fields: str) -> dict[str, str]:
    """The fields of a form on the release's page."""
    page = client.get(f"/releases/{NAME}").text
    hidden = dict(re.findall(r'name="(csrf_token|evidence_hash)" value="([^"]+)"', page))
    return {**hidden, **HASHES, **fields}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_without_a_session_redirects_to_the_login(board, path):
    answer = httpx.get(board.url + path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login" if path == "/" else f"/login?next={path}")


@pytest.mark.parametrize("path", [*PAGES, "/login", "/nothing", "/static/board.css"])
def test_every_response_forbids_scripts_frames_and_caching(ada, path):
    headers = ada.get(path).headers
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("DENY", "nosniff")
    assert "script" not in CONTENT_SECURITY_POLICY


def test_the_session_cookie_is_hidden_from_scripts_and_other_sites(board):
    answer = httpx.post(f"{board.url}/login", data={"token": board.token})
    assert {"httponly", "samesite=strict", "path=/"} <= set(answer.headers["set-cookie"].lower().split("; "))


def test_a_release_is_signed_off_once_and_withdrawn_once(board, ada):
    assert ada.post(f"/releases/{NAME}/sign", data=form(ada, comment="looks right")).status_code == 200
    assert "looks right" in ada.get(f"/releases/{NAME}").text
    assert ada.post(f"/releases/{NAME}/sign", data=form(ada)).status_code == 409
    assert ada.post(f"/releases/{NAME}/withdraw", data=form(ada)).status_code == 200
    assert ada.post(f"/releases/{NAME}/withdraw", data=form(ada)).status_code == 409


def test_the_api_lists_the_sign_offs_of_exactly_these_hashes(board, ada):
    bearer = {"authorization": f"Bearer {board.add_reader()}"}
    ada.post(f"/releases/{NAME}/sign", data=form(ada, comment="yes"))

    def read(**hashes: str) -> list[str]:
        answer = httpx.get(f"{board.url}/api/signoffs", params=HASHES | hashes, headers=bearer)
        return [each["reviewer"] for each in answer.json()["signoffs"]]

    assert read() == ["Ada"]
    assert read(manifest_hash="sha256:" + "0" * 64) == []
    ada.post(f"/releases/{NAME}/withdraw", data=form(ada))
    assert read() == []


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic eDp5"}])
def test_the_api_for_sign_offs_needs_a_token(tmp_path, headers):
    with live_board(tmp_path) as board:
        assert httpx.get(f"{board.url}/api/signoffs", params=HASHES, headers=headers).status_code == 401


def test_a_release_that_changed_after_the_page_was_loaded_is_not_signed_off(ada):
    answer = ada.post(f"/releases/{NAME}/sign", data=form(ada, manifest_hash="sha256:" + "0" * 64))
    assert answer.status_code == 409


def test_a_form_that_does_not_say_which_evidence_was_seen_is_rejected(ada):
    fields = form(ada)
    evidence_hash = fields.pop("evidence_hash")
    answer = ada.post(f"/releases/{NAME}/sign", data=fields)
    assert (answer.status_code, "lacks evidence_hash" in answer.text) == (400, True)
    for wrong in ("", "sha256:" + "0" * 64):
        assert ada.post(f"/releases/{NAME}/sign", data={**fields, "evidence_hash": wrong}).status_code == 409
    assert evidence_hash.startswith("sha256:")


@pytest.mark.parametrize("field", ["", "wrong"])
def test_a_form_without_the_sessions_csrf_token_is_rejected(ada, field):
    answer = ada.post(f"/releases/{NAME}/sign", data={**HASHES, "csrf_token": field})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}]
)
def test_a_form_from_another_site_is_rejected(ada, headers):
    assert ada.post(f"/releases/{NAME}/sign", data=form(ada), headers=headers).status_code == 403


def test_signing_off_needs_a_session(board):
    assert httpx.post(f"{board.url}/releases/{NAME}/sign", data=HASHES).status_code == 401


def test_a_logout_ends_the_session_on_the_server(board):
    client = board.log_in(board.token)
    cookies = dict(client.cookies)
    client.post("/logout", data={"csrf_token": csrf_token(client)})
    assert httpx.get(board.url, cookies=cookies).status_code == 303


def test_a_readers_token_can_not_log_in(board):
    assert httpx.post(f"{board.url}/login", data={"token": board.add_reader("ci")}).status_code == 401


def test_wrong_tokens_are_rate_limited_and_right_ones_are_not(tmp_path):
    with live_board(tmp_path) as board:
        answers = [httpx.post(f"{board.url}/login", data={"token": f"guess {n}"}).status_code for n in range(6)]
        assert answers == [401] * 5 + [429]
        assert httpx.post(f"{board.url}/login", data={"token": board.add("Ada")}).status_code == 303

        def read(token: str) -> int:
            bearer = {"authorization": f"Bearer {token}"}
            return httpx.get(f"{board.url}/api/signoffs", params=HASHES, headers=bearer).status_code

        assert [read("guess") for _ in range(6)] == [401] * 5 + [429]
        assert read(board.add_reader()) == 200


@pytest.mark.parametrize("page", ["0", "-1", "99999999", "1e9", "²", "x" * 5_000])
def test_any_page_number_is_accepted(ada, page):
    assert ada.get("/alerts", params={"page": page}).status_code == 200


def test_an_unknown_host_header_is_rejected(board):
    assert httpx.get(f"{board.url}/login", headers={"host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    "path", ["/releases/..%2f..%2fetc", "/releases/nothing", "/static/../app.py", "/static/%2e%2e/app.py"]
)
def test_other_paths_are_not_found(ada, path):
    assert ada.get(path).status_code == 404


def test_scripts_in_any_field_are_escaped(board, ada):
    board.send(alert(rule=SCRIPT, samples=[SCRIPT], window_start=SCRIPT, engine_hash=SCRIPT))
    data = {"from": SCRIPT, "to": {"release": SCRIPT}, "root_cause": SCRIPT, "duration_s": 1.5}
    board.send(new_event("llm_rollback_completed", data, time.time_ns()).body)
    ada.post(f"/releases/{NAME}/sign", data=form(ada, comment=SCRIPT))
    pages = [ada.get(path).text for path in ("/", "/alerts", "/history", f"/releases/{NAME}")]
    assert all("&lt;script&gt;" in page for page in pages), [page.count("&lt;") for page in pages]
    assert not any("<script" in page or "<img" in page for page in pages)
    ada.post(f"/releases/{NAME}/withdraw", data=form(ada))


def test_a_windows_first_event_and_summary_are_added_up(tmp_path):
    with live_board(tmp_path) as board, closing(board.log_in(board.add("Ada"))) as client:
        now_ns = time.time_ns()
        board.send(alert("cost", 1, now_ns))
        board.send(alert("cost", 41, now_ns))
        page = client.get("/alerts").text
    assert "1 windows, page 1 of 1" in page
    assert page.count(">42</td>") == 2  # in the window's row and in the total of the day


def test_alerts_and_changes_name_their_instance(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMSTACK_INSTANCE", "berlin-2")
    with live_board(tmp_path) as board, closing(board.log_in(board.add("Ada"))) as client:
        board.send(alert("cost"))
        board.send(new_event("llm_release_promoted", {"from": "a", "to": "b"}, time.time_ns()).body)
        pages = [client.get(path).text for path in ("/alerts", "/history")]
    assert all('data-label="Instance">berlin-2</td>' in page for page in pages)


def store_alerts(board, numbers: range, now_ns: int) -> None:
    """Store one alert for each number, five seconds apart."""
    with open_board(board.settings.database) as connection:
        for number in numbers:
            body = alert("queue_delay", 2, now_ns - number * 5_000_000_000)
            store_event(connection, CloudEvent.model_validate_json(body), body, now_ns)


def num_database_steps(board, now_ns: int) -> int:
    """The instructions, in thousands, that SQLite executes for the page of alerts."""
    num_steps = 0

    def count() -> None:
        nonlocal num_steps
        num_steps += 1

    with open_board(board.settings.database) as connection:
        connection.set_progress_handler(count, 1_000)
        alerts_page(connection, Session("Ada", "token"), 1, now_ns)
    return num_steps


def test_the_work_for_the_page_of_alerts_is_at_most_proportional_to_their_number(tmp_path):
    now_ns = time.time_ns()
    with live_board(tmp_path) as board, closing(board.log_in(board.add("Ada"))) as client:
        store_alerts(board, range(1_000), now_ns)
        before = num_database_steps(board, now_ns)
        store_alerts(board, range(1_000, 10_000), now_ns)
        assert num_database_steps(board, now_ns) < 11 * before
        page = client.get("/alerts")
        assert page.text.count("<tr>") == 50 + 4 + 2  # a page of windows, the rules' totals, two headings


def test_removing_an_account_ends_its_sessions_and_withdraws_its_sign_offs(board):
    from llmstack.board.accounts import remove_account

    client = board.log_in(board.add("Charles"))
    client.post(f"/releases/{NAME}/sign", data=form(client))
    with open_board(board.settings.database) as connection:
        remove_account(connection, "Charles", time.time_ns())
    assert client.get("/", follow_redirects=False).status_code == 303
    bearer = {"authorization": f"Bearer {board.add_reader('audit')}"}
    answer = httpx.get(f"{board.url}/api/signoffs", params=HASHES, headers=bearer)
    assert "Charles" not in [each["reviewer"] for each in answer.json()["signoffs"]]


def test_tokens_are_stored_only_as_hashes(board):
    content = b"".join(path.read_bytes() for path in board.directory.glob("board.db*"))
    assert board.token.encode() not in content
