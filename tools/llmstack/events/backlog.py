"""Pending and failed deliveries by endpoint, for readiness checks and metrics."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from llm_policy.ledger.outbox import ENDPOINTS
from llmstack.events.delivery_queue import open_outbox

_PENDING = "SELECT COUNT(*) FROM delivery WHERE endpoint = ? AND state = 'pending'"
_OLDEST = """
SELECT event.time_ns, last_error FROM delivery JOIN event ON event.sequence = event_sequence
WHERE endpoint = ? AND state = 'pending' ORDER BY event_sequence LIMIT 1
"""
_FAILED = "SELECT COUNT(*) FROM delivery WHERE endpoint = ? AND state = 'failed'"
_DISABLED = "SELECT reason FROM disabled_endpoint WHERE endpoint = ?"


class Backlog(NamedTuple):
    """The deliveries of one endpoint that are not done. Health checks use configured and enabled endpoints only."""

    endpoint: str
    is_configured: bool
    disabled_reason: str  # empty: it is enabled
    num_pending: int
    oldest_age_s: float  # since the oldest pending event happened; 0 without pending events
    last_error: str  # of the oldest pending delivery; empty before its first attempt
    num_failed: int = 0  # given up and not replayed


def read_backlog(state_dir: Path, configured: Collection[str], now_ns: int) -> list[Backlog]:
    """The backlog of every endpoint, configured or not.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    with closing(open_outbox(state_dir)) as connection:
        return [_read_endpoint(connection, endpoint, endpoint in configured, now_ns) for endpoint in ENDPOINTS]


def _read_endpoint(connection: sqlite3.Connection, endpoint: str, is_configured: bool, now_ns: int) -> Backlog:
    (num_pending,) = connection.execute(_PENDING, (endpoint,)).fetchone()
    time_ns, last_error = connection.execute(_OLDEST, (endpoint,)).fetchone() or (now_ns, "")
    (reason,) = connection.execute(_DISABLED, (endpoint,)).fetchone() or ("",)
    (num_failed,) = connection.execute(_FAILED, (endpoint,)).fetchone()
    age_s = max(0.0, (now_ns - time_ns) / 1e9)
    return Backlog(endpoint, is_configured, reason, num_pending, age_s, last_error, num_failed)


def metric_families(backlogs: Collection[Backlog]) -> Iterator[Metric]:
    """The backlogs of the configured endpoints as Prometheus gauges."""
    for name, description, value in _GAUGES:
        family = GaugeMetricFamily(name, description, labels=["endpoint"])
        for backlog in backlogs:
            if backlog.is_configured:
                family.add_metric([backlog.endpoint], value(backlog))
        yield family


_GAUGES: tuple[tuple[str, str, Callable[[Backlog], float]], ...] = (
    ("llm_delivery_backlog", "Events pending delivery to their webhook", lambda b: b.num_pending),
    ("llm_delivery_oldest_age_seconds", "Age of the oldest pending event", lambda b: b.oldest_age_s),
    ("llm_delivery_failed", "Events whose delivery was given up and that are not replayed", lambda b: b.num_failed),
    (
        "llm_delivery_disabled",
        "1 after the receiver answered 410 Gone, until a replay",
        lambda b: bool(b.disabled_reason),
    ),
)
