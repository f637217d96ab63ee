"""Deliveries as operators list them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from datetime import datetime, timezone
from typing import Any, NamedTuple

_QUERY = """
SELECT event.id, event.type, event.time_ns, delivery.endpoint, state, attempts, next_attempt_ns, last_error,
       delivered_ns, event.body, reason
FROM delivery JOIN event ON event.sequence = event_sequence
LEFT JOIN disabled_endpoint ON disabled_endpoint.endpoint = delivery.endpoint
WHERE (:state IS NULL OR state = :state) AND (:endpoint IS NULL OR delivery.endpoint = :endpoint)
    AND (:type IS NULL OR event.type = :type)
ORDER BY event_sequence DESC, delivery.endpoint LIMIT :limit
"""


class DeliveryRow(NamedTuple):
    """One event's delivery to one endpoint. Times are Unix times."""

    id: str
    type: str
    time_ns: int
    endpoint: str
    state: str
    num_attempts: int
    next_attempt_ns: int
    last_error: str
    delivered_ns: int | None
    body: bytes
    disabled_reason: str | None

    @property
    def rule(self) -> str:
        """The rule of an alert, such as `cost`; empty for other events."""
        data = json.loads(self.body).get("data")
        return str(data.get("rule") or "") if isinstance(data, dict) else ""

    def note(self, configured: Collection[str]) -> str:
        """The reason for its state in one phrase, or an empty text."""
        if self.state == "pending" and self.endpoint not in configured:
            return "no webhook configured"
        if self.state == "pending" and self.disabled_reason:
            return "the endpoint is disabled"
        if self.state == "pending" and self.num_attempts:
            return f"{self.last_error}, next attempt {iso_time(self.next_attempt_ns)}"
        return self.last_error

    def as_json(self, configured: Collection[str]) -> dict[str, Any]:
        """All fields, with the body parsed."""
        has_retry = self.state == "pending" and self.num_attempts > 0
        return {
            "id": self.id,
            "type": self.type,
            "rule": self.rule or None,
            "time": iso_time(self.time_ns),
            "endpoint": self.endpoint,
            "state": self.state,
            "attempts": self.num_attempts,
            "next_attempt": iso_time(self.next_attempt_ns) if has_retry else None,
            "delivered": iso_time(self.delivered_ns) if self.delivered_ns is not None else None,
            "note": self.note(configured),
            "event": json.loads(self.body),
        }


def list_deliveries(
    connection: sqlite3.Connection, state: str | None, endpoint: str | None, event_type: str | None, limit: int
) -> list[DeliveryRow]:
    """The newest deliveries that match, newest first; None matches all.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    values = {"state": state, "endpoint": endpoint, "type": event_type, "limit": limit}
    return [DeliveryRow(*row) for row in connection.execute(_QUERY, values)]


def iso_time(time_ns: int) -> str:
    """UTC to the second."""
    return datetime.fromtimestamp(time_ns // 10**9, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
