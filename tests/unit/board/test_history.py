"""Events of every type are stored and shown; events that no page can show are rejected on arrival."""

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


def send_event(board, event_type: str, **data) -> int:
    data = {"from": "r6", "to": "r7", "duration_s": 31.0} | data
    return board.send(new_event(event_type, data, time.time_ns()).body).status_code


def history(board) -> str:
    return html.unescape(board.client.get("/history").text)


def test_a_failed_change_is_shown_with_its_cause(board):
    assert send_event(board, "llm_release_change_failed", kind="rollback", cause="not ready after 1 s") == 200
    page = history(board)
    assert "rollback failed" in page
    assert "not ready after 1 s" in page


def test_an_override_is_shown_with_what_was_missing(board):
    send_event(board, "llm_release_promoted", override="the board was down", overridden=["sign-offs: 0 of 2"])
    assert "override: the board was down (missing: sign-offs: 0 of 2)" in history(board)


def test_an_event_of_an_unknown_type_is_stored_and_listed(board):
    assert send_event(board, "llm_something_new", whatever={"a": [1, None]}, number=HUGE) == 200
    page = history(board)
    assert "llm_something_new" in page
    assert '"whatever": {"a": [1, null]}' in page


@pytest.mark.parametrize(
    "year", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00"]
)
def test_an_event_with_an_impossible_time_is_rejected(board, year):
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
def test_a_change_with_invalid_data_is_rejected(board, kind, data):
    assert send_event(board, kind, **data) == 400
    assert [board.client.get(path).status_code for path in ("/", "/history")] == [200, 200]


@pytest.mark.parametrize(
    "data", [{"count": HUGE}, {"observed_max": HUGE}, {"threshold": HUGE}, {"samples": [HUGE] * 101}]
)
def test_an_alert_with_values_out_of_range_is_rejected(board, data):
    assert board.send(alert(**data)).status_code == 400


def test_samples_of_any_type_are_shown(board):
    assert board.send(alert(samples=[HUGE, None, {"a": 1}])).status_code == 200
    assert str(HUGE) in board.client.get("/alerts").text


def test_a_stored_change_with_invalid_data_is_listed_unparsed(board):
    with sqlite3.connect(board.settings.database) as connection:
        event = new_event("llm_release_promoted", {"to": "r9", "duration_s": HUGE}, time.time_ns())
        row = (event.id, event.type, event.time_ns, event.time_ns, event.body)
        connection.execute("INSERT INTO event (id, type, time_ns, received_ns, body) VALUES (?, ?, ?, ?, ?)", row)
    assert '"to": "r9"' in history(board)


def test_error_responses_have_the_security_headers(tmp_path):
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
