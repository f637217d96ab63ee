"""Stores events and alerts in the board's database, and deletes old alerts."""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime, timezone
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm_policy.ledger.alerts import EVENT_TYPE as ALERT
from llmstack.board.history import CHANGES, ChangeData
from llmstack.board.request_body import RequestRejected
from llmstack.board.webhook_verifier import CloudEvent

# A sender's clock may run ahead by this much; an event with a later time would stay at the head of every list.
MAX_AHEAD_NS = 86_400 * 1_000_000_000
MAX_DELETED_ALERTS = 500
OLD_ALERTS_QUERY = "SELECT event_id FROM alert WHERE time_ns < ? ORDER BY time_ns LIMIT ?"
_INSERT_ALERT = """
INSERT INTO alert (
    event_id, source, rule, phase, window_start, window_end, time_ns, count, observed_max, threshold, engine_hash,
    samples
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_Text = Annotated[str, Field(max_length=512)]
# Keeps the sum over all stored windows within SQLite's integers.
_Count = Annotated[int, Field(ge=0, le=1_000_000_000)]


class AlertData(BaseModel):
    """`data` of an `llm_observability_alert`."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    rule: _Text
    phase: _Text = ""
    threshold: float
    observed_max: float
    count: _Count
    window_start: _Text
    window_end: _Text
    engine_hash: _Text
    samples: Annotated[list[Any], Field(max_length=100)] = []


def store_event(connection: sqlite3.Connection, event: CloudEvent, body: bytes, now_ns: int) -> bool:
    """Store the event; returns False when it was stored before.

    Raises:
        RequestRejected: its time is out of range, or its data do not match its type.
    """
    alert = _check_data(event)
    time_ns = _unix_ns(event.time)
    if not 0 <= time_ns <= now_ns + MAX_AHEAD_NS:
        raise RequestRejected(400, "the event's time is before 1970 or more than a day ahead")
    cursor = connection.execute(
        "INSERT OR IGNORE INTO event (id, type, time_ns, received_ns, body) VALUES (?, ?, ?, ?, ?)",
        (event.id, event.type, time_ns, now_ns, body),
    )
    if not cursor.rowcount:
        return False
    if alert is not None:
        _store_alert(connection, event, alert, time_ns)
    return True


def delete_old_alerts(connection: sqlite3.Connection, before_ns: int) -> None:
    """Delete the oldest alerts before `before_ns` (Unix time), a limited number per call to keep webhooks fast."""
    rows = connection.execute(OLD_ALERTS_QUERY, (before_ns, MAX_DELETED_ALERTS)).fetchall()
    ids = [(row["event_id"],) for row in rows]
    connection.executemany("DELETE FROM alert WHERE event_id = ?", ids)
    connection.executemany("DELETE FROM event WHERE id = ?", ids)


def _store_alert(connection: sqlite3.Connection, event: CloudEvent, alert: AlertData, time_ns: int) -> None:
    connection.execute(
        _INSERT_ALERT,
        (
            *(event.id, event.source, alert.rule, alert.phase, alert.window_start, alert.window_end, time_ns),
            *(alert.count, alert.observed_max, alert.threshold, alert.engine_hash, json.dumps(alert.samples)),
        ),
    )


def _check_data(event: CloudEvent) -> AlertData | None:
    """The data of an alert. The data of a change are only validated; those of other types may be anything."""
    try:
        if event.type in CHANGES:
            ChangeData.model_validate(event.data)
        return AlertData.model_validate(event.data) if event.type == ALERT else None
    except ValidationError:
        raise RequestRejected(400, "the data do not match the event's type") from None


def _unix_ns(time: datetime) -> int:
    aware = time if time.tzinfo else time.replace(tzinfo=timezone.utc)
    return int(aware.timestamp() * 1_000_000) * 1_000
