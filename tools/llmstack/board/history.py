"""Changes of the release in service, from their events, and events of other types."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm_policy.ledger.alerts import EVENT_TYPE as ALERT
from llmstack.release.change_events import FAILED, PROMOTED, ROLLED_BACK

CHANGES = (PROMOTED, ROLLED_BACK, FAILED)
MAX_ROWS = 100
_MAX_TEXT_CHARS = 2_000


class ChangeData(BaseModel):
    """`data` of a change event. `from` and `to` are release names, or objects with a name."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    source: Annotated[str | dict[str, Any] | None, Field(alias="from")] = None
    to: str | dict[str, Any] | None = None
    kind: Annotated[str, Field(max_length=64)] = "change"
    root_cause: str | None = None
    cause: str | None = None
    override: str | None = None
    overridden: list[str] = []
    automatic: bool = False
    duration_s: Annotated[float, Field(ge=-1e9, le=1e9)] | None = None  # negative when the clock was set back


class Change(NamedTuple):
    """One change of the release in service.

    `is_good` is True for a promotion, False for a failed change and None for a rollback. `note` is the cause, or the
    reason of an override with what the release lacked.
    """

    time_ns: int
    server: str
    kind: str
    is_good: bool | None
    source: str
    target: str
    note: str
    duration_s: float | None


class ChangeEvent(NamedTuple):
    """The event of a change, as received."""

    time_ns: int
    type: str
    data: ChangeData

    def text(self, key: str) -> str:
        """The text of another key of the data; empty when it is none."""
        value = (self.data.model_extra or {}).get(key)
        return value if isinstance(value, str) else ""


class OtherEvent(NamedTuple):
    """An event of another type, or a change with invalid data. `text` is the JSON of its data."""

    time_ns: int
    type: str
    text: str


def read_history(connection: sqlite3.Connection, limit: int = MAX_ROWS) -> tuple[list[Change], list[OtherEvent]]:
    """The latest changes and other events without alerts, newest first."""
    rows = connection.execute(HISTORY_QUERY, (limit,)).fetchall()
    found = [_read(row["time_ns"], row["type"], row["body"]) for row in rows]
    return [each for each in found if isinstance(each, Change)], [
        each for each in found if isinstance(each, OtherEvent)
    ]


def read_change_events(connection: sqlite3.Connection) -> list[ChangeEvent]:
    """Every change that was received, oldest first."""
    found = []
    for row in connection.execute(CHANGES_QUERY, CHANGES):
        with suppress(ValidationError):
            found.append(ChangeEvent(row["time_ns"], row["type"], _Event.model_validate_json(row["body"]).data))
    return found


# SQLite uses the partial index only for exactly its own condition.
HISTORY_QUERY = f"SELECT time_ns, type, body FROM event WHERE type != '{ALERT}' ORDER BY time_ns DESC LIMIT ?"  # noqa: S608
CHANGES_QUERY = f"SELECT time_ns, type, body FROM event WHERE type != '{ALERT}' AND type IN (?, ?, ?) ORDER BY time_ns"  # noqa: S608


def _read(time_ns: int, event_type: str, body: bytes) -> Change | OtherEvent:
    if event_type in CHANGES:
        try:
            return _change(time_ns, event_type, _Event.model_validate_json(body))
        except ValidationError:
            pass
    return OtherEvent(time_ns, event_type, _data_text(body))


class _Event(BaseModel):
    source: str
    data: ChangeData


def _change(time_ns: int, event_type: str, event: _Event) -> Change:
    data = event.data
    kind = {PROMOTED: "promotion", ROLLED_BACK: "rollback"}.get(event_type, f"{data.kind} failed")
    return Change(
        time_ns,
        event.source,
        f"{kind}, automatic" if data.automatic else kind,
        {PROMOTED: True, ROLLED_BACK: None}.get(event_type, False),
        _release_name(data.source),
        _release_name(data.to),
        _note(data),
        data.duration_s,
    )


def _note(data: ChangeData) -> str:
    if data.override is None:
        return data.root_cause or data.cause or ""
    missing = f" (missing: {'; '.join(data.overridden)})" if data.overridden else ""
    return f"override: {data.override}{missing}"


def _release_name(release: str | Mapping[str, Any] | None) -> str:
    if isinstance(release, Mapping):
        return str(release.get("release") or release.get("name") or release.get("engine_hash") or "")
    return release or ""


def _data_text(body: bytes) -> str:
    try:
        text = json.dumps(json.loads(body)["data"], ensure_ascii=False)
    except (ValueError, RecursionError):  # such as a number of thousands of digits
        text = body.decode(errors="replace")
    return text if len(text) <= _MAX_TEXT_CHARS else text[:_MAX_TEXT_CHARS] + " …"
