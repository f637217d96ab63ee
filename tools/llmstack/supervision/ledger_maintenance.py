"""Maintenance of the ledger by the parent process: alert windows, unanswered rows, outages, size, checkpoints.

The housekeeping thread keeps one connection and reopens it after a fault, because the disk may have been full or
unmounted. An outage is written over a separate connection: the supervisor's thread must never wait for the other one.
An outage that can't be written stays pending until the housekeeping thread can write it.

The stubs keep writing to the file that they opened, even after it is moved. So the parent remembers that file's inode
and creates no second ledger in its place.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from llm_policy.ledger import alerts, outbox, rejection_count, tenant_account
from llm_policy.ledger.database import FILE_NAME, NewerLedger, checkpoint, is_locked, open_database, transaction
from llm_policy.ledger.ledger import RULE_OF_FLAG, Ledger
from llm_policy.ledger.size_budget import LedgerSize, keep_budget
from llm_policy.release.manifest import Manifest
from llmstack.server.error import ServerStartError

WINDOW_S = 60
CANARY_KEPT_S = 86_400
_NS_PER_S = 1_000_000_000
_WINDOW = (
    "SELECT queue_delay_us, flags FROM request INDEXED BY request_answered "
    "WHERE state = 'settled' AND canary = 0 AND closed_ns >= ?"
)


class WindowStatistics(NamedTuple):
    """The last `WINDOW_S` seconds; `queue_delay_p95_us` is None when no request was answered, breaches are by rule."""

    queue_delay_p95_us: float | None
    num_breaches: Mapping[str, int]


class LedgerMoved(sqlite3.OperationalError):
    """The file at the ledger's path is not the one that was opened."""

    def __init__(self) -> None:
        super().__init__(
            f"{FILE_NAME} was moved, deleted or replaced while in use, and requests are still written to the former "
            "file: put that one back, or restart llmstack serve to begin a new one"
        )


class LedgerMaintenance:
    """The ledger in `state_dir`, created when missing. Times are Unix time in nanoseconds.

    The housekeeping thread calls every method but `set_release` and `record_engine_unhealthy`, which the server thread
    calls. Each raises sqlite3.Error when the ledger can't be read or written, LedgerMoved when its file was moved.

    Raises:
        ServerStartError: a newer version made the ledger, or the source of events can't be determined.
    """

    def __init__(self, state_dir: Path, manifest: Manifest) -> None:
        self._path = state_dir / FILE_NAME
        self._manifest = manifest
        self._connection: sqlite3.Connection | None = None
        self._inode: int | None = None  # of the file that this server writes
        self._pending_outages: list[tuple[int, str]] = []
        self._outages_ns: list[int] = []  # within the last `WINDOW_S`
        self._outage_lock = threading.Lock()
        try:
            outbox.source()
            with self._opened():
                pass
        except (NewerLedger, outbox.InstanceError) as error:
            raise ServerStartError(str(error), error.next_step) from None
        except sqlite3.Error:
            pass  # housekeeping retries each second and reports the fault on /readyz

    def set_release(self, manifest: Manifest) -> None:
        """Use this manifest from now on."""
        self._manifest = manifest

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def close_due_windows(self, now_ns: int) -> None:
        """Write the summary of each alert window that ended, and the pending outages."""
        with self._opened() as connection:
            self._flush_pending_outages(connection)
            if alerts.has_due_windows(connection, now_ns):
                with transaction(connection):
                    alerts.close_due_windows(connection, now_ns)

    def close_unanswered(self, now_ns: int, live_boot_id: str) -> None:
        """Close admitted rows that will never be answered; `live_boot_id` is empty while no server runs."""
        with self._opened() as connection:
            Ledger(connection, self._manifest, live_boot_id).close_unanswered(now_ns)

    def delete_old_canaries(self, now_ns: int) -> None:
        """Delete a batch of the canary's rows that are older than `CANARY_KEPT_S`."""
        with self._opened() as connection:
            Ledger(connection, self._manifest, "").delete_old_canaries(now_ns - CANARY_KEPT_S * _NS_PER_S)

    def keep_budget(self, now_ns: int, max_bytes: int) -> LedgerSize:
        """Keep the ledger within its size budget (0 is none) where rejected rows can be pruned. Returns its size."""
        with self._opened() as connection:
            if rejection_count.has_old_minutes(connection, now_ns):
                with transaction(connection):
                    rejection_count.roll_up(connection, now_ns)
            if tenant_account.has_old_seconds(connection, now_ns):
                with transaction(connection):
                    tenant_account.delete_old_seconds(connection, now_ns)
            return keep_budget(connection, max_bytes, now_ns)

    def record_dead_requests(self, boot_id: str, num_requests: int) -> None:
        """Record how many requests that this server start admitted have failed in the engine or in postprocess."""
        with self._opened() as connection:
            Ledger(connection, self._manifest, boot_id).record_dead_requests(num_requests)

    def window(self, now_ns: int) -> WindowStatistics:
        """Statistics of the last `WINDOW_S` seconds, without canaries; outages are those of this process."""
        from_ns = now_ns - WINDOW_S * _NS_PER_S
        with self._opened() as connection:
            rows = connection.execute(_WINDOW, (from_ns,)).fetchall()
        flags = Counter(flag for _, joined in rows for flag in joined.split(","))
        breaches = {rule: flags[flag] for flag, rule in RULE_OF_FLAG.items()}
        with self._outage_lock:
            self._outages_ns = [at_ns for at_ns in self._outages_ns if at_ns >= from_ns]
            breaches[alerts.ENGINE_UNHEALTHY] = len(self._outages_ns)
        return WindowStatistics(_p95([delay_us for delay_us, _ in rows]), breaches)

    def checkpoint(self) -> None:
        """Keep the write-ahead log from growing."""
        with self._opened() as connection:
            checkpoint(connection)

    def record_engine_unhealthy(self, now_ns: int, reason: str) -> None:
        """Report an outage, or a restart that failed to end it. Thread-safe."""
        with self._outage_lock:
            self._outages_ns.append(now_ns)
        try:
            with closing(self._open()) as connection, transaction(connection):
                self._record_outage(connection, now_ns, reason)
        except sqlite3.Error:
            with self._outage_lock:
                self._pending_outages.append((now_ns, reason))
            raise

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._connection is None:
                self._connection = self._open()
            self._check_file()
            yield self._connection
        except sqlite3.Error as error:
            if not is_locked(error):
                self.close()
            raise

    def _open(self) -> sqlite3.Connection:
        self._check_file()
        connection = open_database(self._path, must_exist=self._inode is not None)
        self._inode = self._inode or _inode(self._path)
        return connection

    def _check_file(self) -> None:
        if self._inode is not None and _inode(self._path) != self._inode:
            raise LedgerMoved

    def _flush_pending_outages(self, connection: sqlite3.Connection) -> None:
        with self._outage_lock:
            pending = list(self._pending_outages)
        if pending:
            with transaction(connection):
                for now_ns, reason in pending:
                    self._record_outage(connection, now_ns, reason)
            with self._outage_lock:
                del self._pending_outages[: len(pending)]

    def _record_outage(self, connection: sqlite3.Connection, now_ns: int, reason: str) -> None:
        engine = self._manifest.engine
        alerts.record_breach(
            connection,
            alerts.AlertRule(alerts.ENGINE_UNHEALTHY, 0, engine.hash, engine.quantisation),
            alerts.Breach(1, request_id=reason),
            now_ns,
        )


def _inode(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return None


def _p95(values: list[int]) -> float | None:
    return float(sorted(values)[(len(values) * 95 - 1) // 100]) if values else None
