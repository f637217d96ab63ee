"""The alerts at error level that were told of a release's engine, from the ledger here and from the board.

An alert at error level is one of `ERROR_RULES`. It is open for `OPEN_S` after it was told: long enough for somebody to
have looked, short enough not to have to say why each time.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import orjson

from llm_policy.ledger import alerts
from llm_policy.ledger.database import FILE_NAME, open_to_read
from llm_policy.release.release import Release
from llmstack.release.board_client import BoardAccess, ask

# These rules say that a release does not work; the others say that it is busy or dear.
ERROR_RULES = (alerts.ENGINE_UNHEALTHY, alerts.SCHEMA_VIOLATION)
OPEN_S = 3_600
_EVENTS = "SELECT time_ns, body FROM event WHERE time_ns >= ? AND type = ? ORDER BY sequence"


def told_here(state_dir: Path, release: Release) -> list[str]:
    """Rule and age of each open one in the ledger of `state_dir`.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    if not (state_dir / FILE_NAME).exists():
        return []
    now_ns = time.time_ns()
    with closing(open_to_read(state_dir / FILE_NAME)) as connection:
        if not _has_events(connection):
            return []
        rows = connection.execute(_EVENTS, (now_ns - OPEN_S * 10**9, alerts.EVENT_TYPE)).fetchall()
    told = [(time_ns, orjson.loads(body)["data"]) for time_ns, body in rows]
    return [
        f"{data['rule']} ({data['count']}) {(now_ns - time_ns) / 60e9:.0f} min ago"
        for time_ns, data in told
        if data["engine_hash"] == release.manifest.engine.hash and data["rule"] in ERROR_RULES
    ]


def told_to_board(access: BoardAccess, release: Release) -> list[str]:
    """Rule and window of each open one that the board has received, from whatever service.

    Raises:
        BoardError: no answer, or none that makes sense.
    """
    params = {"engine_hash": release.manifest.engine.hash, "since": str(int(time.time()) - OPEN_S)}
    told = ask(access, "alerts", params, ("rule", "count", "window_start"))
    return [
        f"{each['rule']} ({each['count']}) in the window of {each['window_start']}, says the board"
        for each in told
        if each["rule"] in ERROR_RULES
    ]


def _has_events(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'event'").fetchone() is not None
