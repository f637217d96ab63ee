"""Events that wait to be delivered: written in the transaction of what caused them, sent by the parent process.

An event is stored once, with one delivery for each endpoint that shall get it. Whoever appends one commits it together
with its cause, so neither exists without the other.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

INSTANCE = "LLMSTACK_INSTANCE"
READINESS, FINANCE = "readiness", "finance"
ENDPOINTS = (READINESS, FINANCE)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

TABLES = """
CREATE TABLE IF NOT EXISTS event (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of delivery
    id TEXT NOT NULL UNIQUE,                     -- CloudEvents id, and the webhook-id of every attempt
    type TEXT NOT NULL,
    time_ns INTEGER NOT NULL,                    -- Unix time
    body BLOB NOT NULL                           -- the CloudEvents JSON, byte for byte what is signed
);
CREATE TABLE IF NOT EXISTS delivery (
    endpoint TEXT NOT NULL,
    event_sequence INTEGER NOT NULL REFERENCES event (sequence),
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,         -- failed and answered ones, since it was queued (again)
    first_attempt_ns INTEGER,                    -- Unix time
    next_attempt_ns INTEGER NOT NULL DEFAULT 0,  -- Unix time
    last_error TEXT NOT NULL DEFAULT '',
    delivered_ns INTEGER,                        -- Unix time
    PRIMARY KEY (endpoint, event_sequence)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS delivery_pending ON delivery (endpoint, event_sequence) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS delivery_failed ON delivery (endpoint) WHERE state = 'failed';
CREATE INDEX IF NOT EXISTS delivery_delivered ON delivery (delivered_ns) WHERE state = 'delivered';
CREATE INDEX IF NOT EXISTS delivery_event ON delivery (event_sequence);
CREATE TABLE IF NOT EXISTS disabled_endpoint (   -- its receiver said 410 Gone
    endpoint TEXT PRIMARY KEY,
    since_ns INTEGER NOT NULL,                   -- Unix time
    reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pruned_total (        -- of events that are deleted, so that the books can still be compared
    endpoint TEXT NOT NULL,
    rule TEXT NOT NULL,
    value INTEGER NOT NULL,                      -- breaches of the rule that they told the endpoint
    PRIMARY KEY (endpoint, rule)
) WITHOUT ROWID;
INSERT OR IGNORE INTO pruned_total               -- version 1 deleted without counting
    SELECT '', 'events uncounted', seq - (SELECT count(*) FROM event)
        - coalesce((SELECT value FROM pruned_total WHERE endpoint = '' AND rule = 'events'), 0)
    FROM sqlite_sequence WHERE name = 'event';
"""
PRUNED_EVENTS, UNCOUNTED_EVENTS = ("", "events"), ("", "events uncounted")  # in pruned_total: how many are gone


class Event(NamedTuple):
    """One CloudEvents 1.0 event in its JSON format."""

    id: str
    type: str
    time_ns: int
    body: bytes


class InstanceError(ValueError):
    """What this installation is called can't stand in an event; `next_step` says what to do about it."""

    next_step = f"set {INSTANCE} to 1 to 64 letters, digits, dots, underscores and hyphens"


def source() -> str:
    """Where events come from: the installation's name, so that several may share a receiver; else the host's.

    Raises:
        InstanceError: it is no such name.
    """
    name = os.environ.get(INSTANCE) or socket.gethostname()
    if not _NAME.fullmatch(name):
        raise InstanceError(f"{INSTANCE if os.environ.get(INSTANCE) else 'the host name'} is {name!r:.80}")
    return f"/llmstack/{name}"


def new_event(event_type: str, data: Mapping[str, Any], time_ns: int, subject: str | None = None) -> Event:
    """An event with an id of its own; `data` must be JSON.

    Raises:
        InstanceError: see `source`.
    """
    event_id = f"msg_{uuid.uuid4().hex}"
    body: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id,
        "source": source(),
        "type": event_type,
        "time": datetime.fromtimestamp(time_ns / 1e9, timezone.utc).isoformat().replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": dict(data),
    }
    if subject is not None:
        body["subject"] = subject
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return Event(event_id, event_type, time_ns, text.encode())


def append(connection: sqlite3.Connection, event: Event, endpoints: Sequence[str]) -> None:
    """Add `event` to the caller's transaction, to be delivered to each of `endpoints`."""
    cursor = connection.execute(
        "INSERT INTO event (id, type, time_ns, body) VALUES (?, ?, ?, ?)",
        (event.id, event.type, event.time_ns, event.body),
    )
    connection.executemany(
        "INSERT INTO delivery (endpoint, event_sequence) VALUES (?, ?)",
        [(endpoint, cursor.lastrowid) for endpoint in endpoints],
    )
