"""What the parent asks of the ledger, and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from llm_policy.release.manifest import Manifest

WINDOW_S = 60


class WindowFigures(NamedTuple):
    """What the ledger says of the last `WINDOW_S` seconds; `queue_delay_p95_us` is None when nothing was answered."""

    queue_delay_p95_us: float | None
    num_breaches: Mapping[str, int]


class LedgerAccess(Protocol):
    """The ledger, as one thread of the parent uses it; the supervisor's thread calls `record_engine_unhealthy` alone.

    Every time is Unix time in nanoseconds. Whatever is raised makes the service unready, with the text as reason.
    """

    def set_release(self, manifest: Manifest) -> None:
        """From now on it is this manifest's engine that is served."""

    def close_due_windows(self, now_ns: int) -> None:
        """Write the summary of each alert window that ended."""

    def close_unanswered(self, now_ns: int, live_boot_id: str) -> None:
        """Close admitted rows that nobody will answer; `live_boot_id` is empty while no server runs."""

    def forget_canaries(self, now_ns: int) -> None:
        """Delete some of the canary's rows that are old."""

    def set_unanswered(self, boot_id: str, num_requests: int) -> None:
        """So many requests that this server start admitted are known to be dead."""

    def window(self, now_ns: int) -> WindowFigures:
        """The figures of the last `WINDOW_S` seconds."""

    def checkpoint(self) -> None:
        """Keep the write-ahead log from growing."""

    def record_engine_unhealthy(self, now_ns: int, reason: str) -> None:
        """Report an outage, and again each restart that fails to end it; from the supervisor's thread."""
