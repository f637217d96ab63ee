"""What still waits for delivery, for readiness checks and for the metrics."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from llm_policy.ledger.outbox import ENDPOINTS
from llmstack.events.outbox_file import open_outbox

_PENDING = "SELECT COUNT(*) FROM delivery WHERE endpoint = ? AND state = 'pending'"
_OLDEST = """
SELECT event.time_ns, last_error FROM delivery JOIN event ON event.sequence = event_sequence
WHERE endpoint = ? AND state = 'pending' ORDER BY event_sequence LIMIT 1
"""
_FAILED = "SELECT COUNT(*) FROM delivery WHERE endpoint = ? AND state = 'failed'"
_DISABLED = "SELECT reason FROM disabled_endpoint WHERE endpoint = ?"


class Backlog(NamedTuple):
    """What waits for one endpoint. Only a configured and enabled endpoint's says anything about health."""

    endpoint: str
    is_configured: bool
    disabled_reason: str  # empty: it is enabled
    num_pending: int
    oldest_age_s: float  # since the oldest pending event happened; 0 when nothing waits
    last_error: str  # of the oldest; empty when nothing waits or nothing was tried
    num_failed: int = 0  # given up, until somebody replays them


def read_backlog(state_dir: Path, configured: Collection[str], now_ns: int) -> list[Backlog]:
    """The backlog of every endpoint there is, configured or not.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    with closing(open_outbox(state_dir)) as connection:
        return [_of(connection, endpoint, endpoint in configured, now_ns) for endpoint in ENDPOINTS]


def _of(connection: sqlite3.Connection, endpoint: str, is_configured: bool, now_ns: int) -> Backlog:
    (num_pending,) = connection.execute(_PENDING, (endpoint,)).fetchone()
    time_ns, last_error = connection.execute(_OLDEST, (endpoint,)).fetchone() or (now_ns, "")
    (reason,) = connection.execute(_DISABLED, (endpoint,)).fetchone() or ("",)
    (num_failed,) = connection.execute(_FAILED, (endpoint,)).fetchone()
    age_s = max(0.0, (now_ns - time_ns) / 1e9)
    return Backlog(endpoint, is_configured, reason, num_pending, age_s, last_error, num_failed)


def exposition(backlogs: Collection[Backlog]) -> bytes:
    """The backlog of the configured endpoints in Prometheus' text format."""
    lines = []
    for name, help_text, attribute in (
        ("llm_delivery_backlog", "Events that wait for their webhook", "num_pending"),
        ("llm_delivery_oldest_age_seconds", "Age of the oldest event that waits", "oldest_age_s"),
        ("llm_delivery_failed", "Events that were given up, until they are replayed", "num_failed"),
    ):
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
        lines += [f'{name}{{endpoint="{b.endpoint}"}} {getattr(b, attribute)}' for b in backlogs if b.is_configured]
    disabled = "llm_delivery_disabled"
    lines += [f"# HELP {disabled} 1 after a receiver said 410 Gone, until it is replayed", f"# TYPE {disabled} gauge"]
    lines += [
        f'{disabled}{{endpoint="{b.endpoint}"}} {int(bool(b.disabled_reason))}' for b in backlogs if b.is_configured
    ]
    return "".join(f"{line}\n" for line in lines).encode()
