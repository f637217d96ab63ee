"""Alerts in the API and on the page: filters, retention and queries that use their indexes."""

import json
import sqlite3
import time
from contextlib import closing
from datetime import datetime, timezone

import httpx
import pytest

from llm_policy.ledger.outbox import new_event
from llmstack.board import alert_summary, event_store, history
from llmstack.board.board_database import create_board, open_board
from llmstack.board.event_store import delete_old_alerts, store_event
from llmstack.board.webhook_verifier import CloudEvent
from tests.board_client import alert, live_board

DAY_NS = 86_400 * 10**9
ENGINE, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


@pytest.fixture
def board(tmp_path):
    with live_board(tmp_path) as live:
        live.bearer = {"authorization": f"Bearer {live.add_reader()}"}
        yield live


def get_alerts(board, **parameters) -> httpx.Response:
    return httpx.get(f"{board.url}/api/alerts", params=parameters, headers=board.bearer)


def store(path, *bodies: bytes, now_ns: int | None = None) -> None:
    with open_board(path) as connection:
        for body in bodies:
            store_event(connection, CloudEvent.model_validate_json(body), body, now_ns or time.time_ns())


def test_the_api_lists_the_alerts_of_one_engine_since_a_time(board):
    now_ns = time.time_ns()
    board.send(alert("cost", 1, now_ns - 120 * 10**9, phase="first"))
    board.send(alert("engine_unhealthy", 3, now_ns - 10 * 10**9, phase="summary"))
    board.send(alert("cost", 1, now_ns, engine_hash=OTHER))
    since_s = now_ns / 1e9 - 60
    for since in (since_s, datetime.fromtimestamp(since_s, timezone.utc).isoformat().replace("+00:00", "Z")):
        answer = get_alerts(board, engine_hash=ENGINE, since=since).json()
        assert answer["engine_hash"] == ENGINE
        (reported,) = answer["alerts"]
        assert set(reported) == {"rule", "phase", "count", "window_start", "window_end"}
        assert (reported["rule"], reported["phase"], reported["count"]) == ("engine_unhealthy", "summary", 3)
    assert [each["rule"] for each in get_alerts(board, engine_hash=ENGINE).json()["alerts"]] == [
        "engine_unhealthy",
        "cost",
    ]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"engine_hash": "a"},
        *({"engine_hash": ENGINE, "since": text} for text in ("yesterday", "nan", "inf", "1e300", "")),
    ],
    ids=str,
)
def test_invalid_parameters_are_rejected(board, parameters):
    assert get_alerts(board, **parameters).status_code == 400


def test_the_api_for_alerts_needs_a_token(board):
    assert httpx.get(f"{board.url}/api/alerts", params={"engine_hash": ENGINE}).status_code == 401


def test_alerts_name_their_instance_and_windows_are_per_instance(board):
    now_ns = time.time_ns()
    for name in ("gpu-1", "gpu-2"):
        body = json.dumps({**json.loads(alert("cost", 5, now_ns)), "source": f"/llmstack/{name}"}).encode()
        assert board.send(body).status_code == 200
    with closing(board.log_in(board.add("Ada"))) as client:
        page = client.get("/alerts").text
    assert "2 windows" in page
    assert ">gpu-1<" in page and ">gpu-2<" in page


def test_old_alerts_are_deleted_and_changes_are_kept(tmp_path):
    path, now_ns = tmp_path / "board.db", time.time_ns()
    create_board(path)
    store(path, *(alert("cost", 1, now_ns - days * DAY_NS) for days in (1, 89, 91, 400)))
    store(path, new_event("llm_release_promoted", {"to": "r1"}, now_ns - 4_000 * DAY_NS).body)
    with open_board(path) as connection:
        delete_old_alerts(connection, now_ns - 90 * DAY_NS)
        assert connection.execute("SELECT count(*) FROM alert").fetchone()[0] == 2
        assert connection.execute("SELECT count(*) FROM event").fetchone()[0] == 3


def test_a_webhook_deletes_alerts_older_than_the_retention(tmp_path):
    with live_board(tmp_path, keep_alerts_days=7) as board:
        board.send(alert("cost", 1, time.time_ns() - 8 * DAY_NS))
        board.send(alert("cost", 1))
        with sqlite3.connect(board.settings.database) as connection:
            assert connection.execute("SELECT count(*) FROM alert").fetchone()[0] == 1


@pytest.mark.parametrize(
    ("query", "num_parameters", "index"),
    [
        (alert_summary.COUNT_QUERY, 1, "alert_by_window"),
        (alert_summary.PAGE_QUERY, 2, "alert_by_window"),
        (alert_summary.SAMPLES_QUERY, 3, "alert_by_window"),
        (alert_summary.ENGINE_QUERY, 3, "alert_by_engine"),
        (alert_summary.BARS_QUERY, 3, "alert_by_time"),
        (history.HISTORY_QUERY, 1, "event_of_history"),
        (event_store.OLD_ALERTS_QUERY, 2, "alert_by_time"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_by_" in value else "",
)
def test_every_query_uses_its_index(tmp_path, query, num_parameters, index):
    create_board(tmp_path / "board.db")
    with open_board(tmp_path / "board.db") as connection:
        plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", (1,) * num_parameters)]
    assert any(index in step for step in plan), plan
    assert not any("ORDER BY" in step for step in plan), plan  # a sort would read all rows


def test_windows_are_counted_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(alert_summary, "MAX_COUNTED", 60)
    monkeypatch.setattr("llmstack.board.pages.MAX_COUNTED", 60)
    with live_board(tmp_path) as board, closing(board.log_in(board.add("Ada"))) as client:
        now_ns = time.time_ns()
        store(board.settings.database, *(alert("cost", 1, now_ns - number * 60 * 10**9) for number in range(120)))
        assert "More than 60 windows, page 1" in client.get("/alerts").text
        last = client.get("/alerts?page=3").text
        assert last.count('data-label="Rule"') == 20
        assert "Older" not in last


def test_a_database_of_an_earlier_version_is_migrated_without_loss(tmp_path):
    path = tmp_path / "board.db"
    create_board(path)
    store(path, alert("cost", 5))
    with sqlite3.connect(path) as connection:  # the earlier version's schema
        connection.execute("DROP INDEX alert_by_window")
        connection.execute("ALTER TABLE alert DROP COLUMN source")
        connection.execute("ALTER TABLE alert DROP COLUMN phase")
        connection.execute("ALTER TABLE sign_off DROP COLUMN evidence_hash")
        connection.execute("CREATE INDEX alert_by_window ON alert (window_start, rule)")
        connection.execute("CREATE INDEX event_by_type ON event (type, time_ns)")
        connection.execute("PRAGMA user_version = 0")
    create_board(path)
    store(path, alert("cost", 5))
    with open_board(path, writes=False) as connection:
        assert sum(window.num_breaches for window in alert_summary.window_summaries(connection)) == 10


def chart(tmp_path, *bodies: bytes, now_ns: int) -> alert_summary.AlertChart:
    create_board(tmp_path / "board.db")
    store(tmp_path / "board.db", *bodies, now_ns=now_ns)
    with open_board(tmp_path / "board.db") as connection:
        return alert_summary.make_chart(connection, now_ns)


def test_the_chart_has_an_axis_of_breaches_and_one_of_hours(tmp_path):
    now_ns = 1_000_000 * alert_summary.HOUR_NS + 5  # 16:00 UTC
    bodies = [alert("cost", 3, now_ns), alert("queue_delay", 4, now_ns), alert("cost", 1, now_ns - DAY_NS // 2)]
    found = chart(tmp_path, *bodies, now_ns=now_ns)
    assert found.labels == ("17:00", "21:00", "01:00", "05:00", "09:00", "13:00")
    assert found.top == 8
    assert [(bar.hour, bar.rule, bar.height) for bar in found.bars] == [
        ("04:00", "cost", 12.5),
        ("16:00", "queue_delay", 50.0),
        ("16:00", "cost", 37.5),
    ]
    assert found.bars[-1].y == 12.5
    assert found.bars[-1].x + found.bars[-1].width <= 100


def test_without_breaches_the_chart_has_no_bar(tmp_path):
    assert chart(tmp_path, now_ns=DAY_NS).bars == ()


@pytest.mark.parametrize("highest", [0, 1, 2, 3, 10, 11, 19, 21, 41, 99, 100, 101, 12_345, 10**12 + 1])
def test_the_top_of_the_axis_is_round_and_even_and_less_than_twice_the_highest_hour(highest):
    top = alert_summary.axis_top(highest)
    assert highest <= top <= max(2, 2 * highest)
    assert top % 2 == 0
    assert str(top).rstrip("0") in ("1", "2", "4", "6", "8")


def test_the_page_shows_both_axes(board):
    board.send(alert("cost", 7))
    with closing(board.log_in(board.add("Ada"))) as client:
        page = client.get("/alerts").text
    assert "<span>8</span><span>4</span><span>0</span>" in page
    assert page.count(":00</span>") == 6
    assert "on an axis from 0 to 8" in page
