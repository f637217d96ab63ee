"""Webhooks: signed, fresh, small, well formed, each taken once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from standardwebhooks import WebhookVerificationError

from llm_policy.ledger.alerts import EVENT_TYPE as ALERT
from llmstack.board.history import CHANGES, ChangeData
from llmstack.events.secret_file import read_secrets

# A cost alert lists up to a thousand requests, each with a client's id of up to 128 characters.
MAX_BODY_BYTES = 1 << 20
_NO_EVENT = "the body is no CloudEvents 1.0 event in JSON"
# A sender's clock may run ahead; what lies further off would head every list for ever.
MAX_AHEAD_NS = 86_400 * 1_000_000_000
_Text = Annotated[str, Field(max_length=512)]
# As many as an integer of SQLite can add up over every window that is kept.
_Count = Annotated[int, Field(ge=0, le=1_000_000_000)]


class Refusal(Exception):
    """The webhook is not taken; `status` is for HTTP, the text says why and quotes nothing of it."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class CloudEvent(BaseModel):
    """The envelope; what else is in it is kept with the body."""

    model_config = ConfigDict(extra="allow")

    specversion: Annotated[str, Field(pattern=r"^1\.0$")]
    id: Annotated[str, Field(min_length=1, max_length=256)]
    source: Annotated[str, Field(min_length=1, max_length=256)]
    type: Annotated[str, Field(min_length=1, max_length=256)]
    time: datetime
    data: dict[str, Any]


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


class Inbox:
    """Takes webhooks that one of the secrets in the file at `secret_path` signed; the file is read for each.

    Raises:
        WebhookConfigurationError: the file can't be used.
    """

    def __init__(self, secret_path: Path) -> None:
        self._secret_path = secret_path
        read_secrets(secret_path)

    def verify(self, body: bytes, headers: Mapping[str, str]) -> CloudEvent:
        """The event in `body`.

        Raises:
            Refusal: it is forged, older or newer than five minutes, or no event.
        """
        if len(body) > MAX_BODY_BYTES:
            raise Refusal(413, f"a body may have {MAX_BODY_BYTES} bytes")
        self._check_signature(body, headers)
        try:
            event = CloudEvent.model_validate_json(body)
        except (ValidationError, RecursionError):
            raise Refusal(400, _NO_EVENT) from None
        if event.id != headers.get("webhook-id"):
            raise Refusal(400, "webhook-id is not the event's id")
        return event

    def _check_signature(self, body: bytes, headers: Mapping[str, str]) -> None:
        for webhook in read_secrets(self._secret_path):
            try:
                webhook.verify(body, dict(headers))
            except (WebhookVerificationError, ValueError, UnicodeError, OverflowError):
                continue
            except RecursionError:  # the library parses what it has verified
                raise Refusal(400, _NO_EVENT) from None
            return
        raise Refusal(401, "no signature of ours over this body, or its timestamp is more than five minutes off")


def keep(connection: sqlite3.Connection, event: CloudEvent, body: bytes, now_ns: int) -> bool:
    """Write the event down; False when it was there already.

    Raises:
        Refusal: its time is none of ours, or its data are not what its type says.
    """
    alert = _check_data(event)
    time_ns = _unix_ns(event.time)
    if not 0 <= time_ns <= now_ns + MAX_AHEAD_NS:
        raise Refusal(400, "the event's time is before 1970 or more than a day ahead")
    cursor = connection.execute(
        "INSERT OR IGNORE INTO event (id, type, time_ns, received_ns, body) VALUES (?, ?, ?, ?, ?)",
        (event.id, event.type, time_ns, now_ns, body),
    )
    if not cursor.rowcount:
        return False
    if alert is not None:
        _keep_alert(connection, event, alert, time_ns)
    return True


def forget_alerts(connection: sqlite3.Connection, before_ns: int) -> None:
    """Delete the oldest alerts of those before `before_ns`: a few at a time, so that no webhook waits for it long."""
    rows = connection.execute(FORGETTABLE_QUERY, (before_ns, MAX_FORGOTTEN)).fetchall()
    ids = [(row["event_id"],) for row in rows]
    connection.executemany("DELETE FROM alert WHERE event_id = ?", ids)
    connection.executemany("DELETE FROM event WHERE id = ?", ids)


MAX_FORGOTTEN = 500
FORGETTABLE_QUERY = "SELECT event_id FROM alert WHERE time_ns < ? ORDER BY time_ns LIMIT ?"
_KEEP_ALERT = """
INSERT INTO alert (
    event_id, source, rule, phase, window_start, window_end, time_ns, count, observed_max, threshold, engine_hash,
    samples
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def _keep_alert(connection: sqlite3.Connection, event: CloudEvent, alert: AlertData, time_ns: int) -> None:
    connection.execute(
        _KEEP_ALERT,
        (
            *(event.id, event.source, alert.rule, alert.phase, alert.window_start, alert.window_end, time_ns),
            *(alert.count, alert.observed_max, alert.threshold, alert.engine_hash, json.dumps(alert.samples)),
        ),
    )


def _check_data(event: CloudEvent) -> AlertData | None:
    """The data of an alert; those of a change are only checked, and unknown kinds may hold anything."""
    try:
        if event.type in CHANGES:
            ChangeData.model_validate(event.data)
        return AlertData.model_validate(event.data) if event.type == ALERT else None
    except ValidationError:
        raise Refusal(400, "the data are not what an event of this type holds") from None


def _unix_ns(moment: datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(aware.timestamp() * 1_000_000) * 1_000
