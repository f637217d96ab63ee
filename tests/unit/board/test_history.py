"""Events of every kind are kept and shown; what no page could show is refused when it comes."""

import html
import json
import sqlite3
import time

import httpx
import pytest

from llm_policy.ledger.outbox import new_event
from llmstack.board.security_headers import CONTENT_SECURITY_POLICY
from tests.board_client import alert, live_board

HUGE = 10**400


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with live_board(tmp_path_factory.mktemp("board")) as live:
        live.client = live.log_in(live.add("Ada"))
        yield live


def tell(board, event_type: str, **data) -> int:
    sides = {"from": "r6", "to": "r7", "duration_s": 31.0}
    return board.send(new_event(event_type, sides | data, time.time_ns()).body).status_code


def history(board) -> str:
    return html.unescape(board.client.get("/history").text)


def test_a_change_that_failed_is_shown_with_its_cause(board):
    assert tell(board, "llm_release_change_failed", kind="rollback", root_cause="not ready after 1 s") == 200
    page = history(board)
    assert "rollback failed" in page
    assert "not ready after 1 s" in page


def test_an_override_is_shown_with_what_was_missing(board):
    tell(board, "llm_release_promoted", override="the board was down", overridden=["sign-offs: 0 of 2"])
    assert "override: the board was down (missing: sign-offs: 0 of 2)" in history(board)


def test_an_event_of_an_unknown_kind_is_kept_and_listed(board):
    assert tell(board, "llm_something_new", whatever={"a": [1, None]}, number=HUGE) == 200
    page = history(board)
    assert "llm_something_new" in page
    assert '"whatever": {"a": [1, null]}' in page


@pytest.mark.parametrize(
    "year", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00"]
)
def test_an_event_of_no_possible_time_is_refused(board, year):
    body = json.dumps({**json.loads(alert()), "time": year}).encode()
    assert board.send(body).status_code == 400
    assert board.client.get("/alerts").status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        {"duration_s": HUGE},
        {"duration_s": -HUGE},
        {"duration_s": "long"},
        {"root_cause": ["x"]},
        {"from": 7},
        {"overridden": [{}]},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["llm_release_promoted", "llm_rollback_completed", "llm_release_change_failed"])
def test_a_change_whose_data_are_none_is_refused(board, kind, data):
    assert tell(board, kind, **data) == 400
    assert [board.client.get(path).status_code for path in ("/", "/history")] == [200, 200]


@pytest.mark.parametrize(
    "data", [{"count": HUGE}, {"observed_max": HUGE}, {"threshold": HUGE}, {"samples": [HUGE] * 101}]
)
def test_an_alert_that_no_table_can_add_up_is_refused(board, data):
    assert board.send(alert(**data)).status_code == 400


def test_samples_of_any_kind_are_shown(board):
    assert board.send(alert(samples=[HUGE, None, {"a": 1}])).status_code == 200
    assert str(HUGE) in board.client.get("/alerts").text


def test_a_change_that_was_kept_before_it_was_checked_is_listed_as_it_came(board):
    with sqlite3.connect(board.settings.database) as connection:
        event = new_event("llm_release_promoted", {"to": "r9", "duration_s": HUGE}, time.time_ns())
        row = (event.id, event.type, event.time_ns, event.time_ns, event.body)
        connection.execute("INSERT INTO event (id, type, time_ns, received_ns, body) VALUES (?, ?, ?, ?, ?)", row)
    assert '"to": "r9"' in history(board)


def test_a_failures_answer_has_the_headers_of_every_other(tmp_path):
    with live_board(tmp_path) as board:
        board.settings.database.with_name("board.db").write_bytes(b"no database" * 100)
        answers = [
            httpx.post(f"{board.url}/login", data={"token": "x"}),
            httpx.get(f"{board.url}/api/signoffs", headers={"authorization": "Bearer x"}),
        ]
    for answer in answers:
        assert answer.status_code == 500
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["cache-control"] == "no-store"
    assert "its log says why" in answers[0].text
