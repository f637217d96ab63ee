"""The open alerts at error level for a release's engine, from the local ledger and from the board.

Alerts of `ERROR_RULES` are at error level. One is open for `ALERT_WINDOW_S` after it was raised: long enough for
somebody to look into it, short enough that later promotions need no override.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import orjson

from llm_policy.ledger import alerts
from llm_policy.ledger.database import FILE_NAME, open_read_only
from llm_policy.release.release import Release
from llmstack.release.board_client import BoardAccess, fetch_list

# These rules mean that a release does not work; the others, that it is busy or expensive.
ERROR_RULES = (alerts.ENGINE_UNHEALTHY, alerts.SCHEMA_VIOLATION)
ALERT_WINDOW_S = 3_600
_EVENTS = "SELECT time_ns, body FROM event WHERE time_ns >= ? AND type = ? ORDER BY sequence"


class OpenAlert(NamedTuple):
    """One open alert; `text` has its rule, its count and when it was raised."""

    rule: str
    text: str


def open_ledger_alerts(state_dir: Path, release: Release) -> list[OpenAlert]:
    """The open alerts in the ledger of `state_dir`.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    if not (state_dir / FILE_NAME).exists():
        return []
    now_ns = time.time_ns()
    with closing(open_read_only(state_dir / FILE_NAME)) as connection:
        if not _has_events(connection):
            return []
        rows = connection.execute(_EVENTS, (now_ns - ALERT_WINDOW_S * 10**9, alerts.EVENT_TYPE)).fetchall()
    events = [(time_ns, orjson.loads(body)["data"]) for time_ns, body in rows]
    return [
        OpenAlert(data["rule"], f"{data['rule']} ({data['count']}) {(now_ns - time_ns) / 60e9:.0f} min ago")
        for time_ns, data in events
        if data["engine_hash"] == release.manifest.engine.hash and data["rule"] in ERROR_RULES
    ]


def open_board_alerts(access: BoardAccess, release: Release) -> list[OpenAlert]:
    """The open alerts that any service has sent to the board.

    Raises:
        BoardError: the board does not answer, or not as expected.
    """
    params = {"engine_hash": release.manifest.engine.hash, "since": str(int(time.time()) - ALERT_WINDOW_S)}
    received = fetch_list(access, "alerts", params, ("rule", "count", "window_start"))
    return [
        OpenAlert(
            alert["rule"],
            f"{alert['rule']} ({alert['count']}) in the window of {alert['window_start']}, from the board",
        )
        for alert in received
        if alert["rule"] in ERROR_RULES
    ]


def _has_events(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'event'").fetchone() is not None
