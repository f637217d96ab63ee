"""The board accepts each signed event once and rejects everything else."""

import json
import sqlite3

import httpx
import pytest

from llm_policy.ledger.outbox import new_event
from llmstack.board.webhook_verifier import MAX_BODY_BYTES
from tests.board_client import alert, live_board, signed
from tests.webhook_receiver import new_secret, write_secrets


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with live_board(tmp_path_factory.mktemp("board")) as live:
        yield live


def num_events(board) -> int:
    with sqlite3.connect(board.settings.database) as connection:
        return connection.execute("SELECT count(*) FROM event").fetchone()[0]


def test_a_signed_event_is_stored_once(board):
    body = alert()
    before = num_events(board)
    assert board.send(body).json()["new"] is True
    assert board.send(body).json()["new"] is False
    assert num_events(board) == before + 1


def test_a_secret_added_to_the_file_is_accepted_immediately(board):
    body, secret = alert(), new_secret()
    headers = signed(secret, body, json.loads(body)["id"])
    assert httpx.post(f"{board.url}/webhooks", content=body, headers=headers).status_code == 401
    write_secrets(board.settings.webhook_secrets, secret, board.secret)
    assert httpx.post(f"{board.url}/webhooks", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"webhook-signature": "v1,AAAA"}, 401),
        ({"webhook-signature": ""}, 401),
        ({"webhook-timestamp": "1"}, 401),
        ({"webhook-timestamp": "99999999999999999999"}, 401),
        ({"webhook-timestamp": "now"}, 401),
        ({"webhook-id": "msg_other"}, 401),
    ],
)
def test_a_forged_or_altered_webhook_is_rejected(board, change, status):
    before = num_events(board)
    answer = board.send(alert(), **change)
    assert (answer.status_code, num_events(board)) == (status, before)


def test_a_signature_older_than_five_minutes_is_rejected(board):
    body = alert()
    answer = board.send(body, **signed(board.secret, body, json.loads(body)["id"], age_s=301))
    assert answer.status_code == 401


def test_an_unsigned_webhook_is_rejected(board):
    assert httpx.post(f"{board.url}/webhooks", content=alert()).status_code == 401


def test_an_oversized_body_is_rejected(board):
    body = json.dumps({"id": "msg_1", "fill": "x" * MAX_BODY_BYTES}).encode()
    assert board.send(body).status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"id":"msg_1"}',
        b'{"specversion":"0.3","id":"msg_1","source":"s","type":"t","time":"2026-01-01T00:00:00Z","data":{}}',
        b'{"specversion":"1.0","id":"msg_1","source":"s","type":"t","time":"yesterday","data":{}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_malformed_body_is_rejected_although_it_is_signed(board, body):
    try:
        headers = signed(board.secret, body, "msg_1")
    except UnicodeDecodeError:
        headers = signed(board.secret, b"{}", "msg_1")
    answer = httpx.post(f"{board.url}/webhooks", content=body, headers=headers)
    assert answer.status_code in (400, 401)


@pytest.mark.parametrize("change", [{"count": -1}, {"count": "many"}, {"observed_max": "NaN"}, {"rule": "x" * 600}])
def test_an_alert_with_invalid_data_is_rejected_and_not_stored(board, change):
    before = num_events(board)
    assert board.send(alert(**change)).status_code == 400
    assert num_events(board) == before


def test_an_event_of_another_type_is_stored(board):
    before = num_events(board)
    assert board.send(new_event("llm_release_promoted", {"to": "b"}, 1).body).json()["new"] is True
    assert num_events(board) == before + 1
