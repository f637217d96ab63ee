"""Promotions and rollbacks, as their events told them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

from llmstack.release.change_events import PROMOTED, ROLLED_BACK

MAX_ROWS = 100


class Change(NamedTuple):
    """One change of the release in service; `note` is a rollback's cause or an override's reason."""

    time_ns: int
    server: str
    kind: str
    source: str
    target: str
    note: str
    duration_s: float | None


def changes(connection: sqlite3.Connection) -> list[Change]:
    """The newest first."""
    rows = connection.execute(
        "SELECT time_ns, type, body FROM event WHERE type IN (?, ?) ORDER BY time_ns DESC LIMIT ?",
        (PROMOTED, ROLLED_BACK, MAX_ROWS),
    )
    return [_change(row["time_ns"], row["type"], json.loads(row["body"])) for row in rows]


def _change(time_ns: int, event_type: str, event: Mapping[str, Any]) -> Change:
    data = event["data"]
    is_promotion = event_type == PROMOTED
    note = data.get("override") if is_promotion else data.get("root_cause")
    duration = data.get("duration_s")
    return Change(
        time_ns,
        str(event["source"]),
        "promotion" if is_promotion else "rollback",
        _release_name(data.get("from")),
        _release_name(data.get("to")),
        str(note or ""),
        float(duration) if isinstance(duration, int | float) else None,
    )


def _release_name(side: Any) -> str:
    """A side of a change is a name, or an object that has one."""
    if isinstance(side, Mapping):
        return str(side.get("release") or side.get("name") or side.get("engine_hash") or "")
    return str(side or "")
