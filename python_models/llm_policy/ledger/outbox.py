"""The outbox: events written in the transaction of their cause, delivered to webhooks by the parent process.

An event is stored once, with one delivery row for each endpoint. Because the event commits together with its cause,
neither exists without the other.
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
    attempts INTEGER NOT NULL DEFAULT 0,         -- completed attempts since the event was queued or replayed
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
CREATE TABLE IF NOT EXISTS disabled_endpoint (   -- its receiver answered 410 Gone
    endpoint TEXT PRIMARY KEY,
    since_ns INTEGER NOT NULL,                   -- Unix time
    reason TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pruned_total (        -- of deleted events, so that `ledger verify` can still compare
    endpoint TEXT NOT NULL,
    rule TEXT NOT NULL,
    value INTEGER NOT NULL,                      -- breaches of the rule that they reported to the endpoint
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
    """The instance name is not valid in an event's source; `next_step` is the operator's remedy."""

    next_step = f"set {INSTANCE} to 1 to 64 letters, digits, dots, underscores and hyphens"


def source() -> str:
    """The CloudEvents source: the instance name, which tells servers with a common receiver apart, or the host name.

    Raises:
        InstanceError: the name is not valid.
    """
    name = os.environ.get(INSTANCE) or socket.gethostname()
    if not _NAME.fullmatch(name):
        raise InstanceError(f"{INSTANCE if os.environ.get(INSTANCE) else 'the host name'} is {name!r:.80}")
    return f"/llmstack/{name}"


def new_event(event_type: str, data: Mapping[str, Any], time_ns: int, subject: str | None = None) -> Event:
    """A new event with a unique id; `data` must be JSON serialisable.

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
    """Add `event` and one delivery for each of `endpoints`, in the caller's transaction."""
    cursor = connection.execute(
        "INSERT INTO event (id, type, time_ns, body) VALUES (?, ?, ?, ?)",
        (event.id, event.type, event.time_ns, event.body),
    )
    connection.executemany(
        "INSERT INTO delivery (endpoint, event_sequence) VALUES (?, ?)",
        [(endpoint, cursor.lastrowid) for endpoint in endpoints],
    )
