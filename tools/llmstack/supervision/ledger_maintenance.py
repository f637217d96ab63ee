"""What the parent asks of the ledger, on the real one.

The housekeeping thread keeps one connection, and opens it anew after a fault: the disk may have been full or gone. An
outage is written over a connection of its own, because the supervisor's thread must never wait for the other; one that
could not be written is owed, and written at the next turn that can.

The stubs go on writing to the file that they opened, wherever somebody moves it. So the parent remembers which one that
was, and makes no second one in its place.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from llm_policy.ledger import alerts, outbox
from llm_policy.ledger.database import FILE_NAME, NewerLedger, checkpoint, is_locked, open_database, transaction
from llm_policy.ledger.ledger import RULE_OF_FLAG, Ledger
from llm_policy.release.manifest import Manifest
from llmstack.server.error import ServerStartError
from llmstack.supervision.ledger_access import WINDOW_S, WindowFigures

CANARY_KEPT_S = 86_400
_NS_PER_S = 1_000_000_000
_WINDOW = (
    "SELECT queue_delay_us, flags FROM request INDEXED BY request_answered "
    "WHERE state = 'settled' AND canary = 0 AND closed_ns >= ?"
)


class LedgerMoved(sqlite3.OperationalError):
    """What lies at the ledger's path is not the file that was opened there."""

    def __init__(self) -> None:
        super().__init__(
            f"{FILE_NAME} was moved, deleted or replaced while in use, and requests are still written to the former "
            "file: put that one back, or restart llmstack serve to begin a new one"
        )


class LedgerMaintenance:
    """The ledger in `state_dir`, made when missing.

    Every method raises sqlite3.Error when the ledger can't be read or written, LedgerMoved when it is another one.

    Raises:
        ServerStartError: the ledger was made by a newer version, or events can't say where they come from.
    """

    def __init__(self, state_dir: Path, manifest: Manifest) -> None:
        self._path = state_dir / FILE_NAME
        self._manifest = manifest
        self._connection: sqlite3.Connection | None = None
        self._inode: int | None = None  # of the file that this server writes
        self._owed: list[tuple[int, str]] = []
        self._outages_ns: list[int] = []  # of the last window
        self._outage_lock = threading.Lock()
        try:
            outbox.source()
            with self._opened():
                pass
        except (NewerLedger, outbox.InstanceError) as error:
            raise ServerStartError(str(error), error.next_step) from None
        except sqlite3.Error:
            pass  # tried again each second, and on /readyz meanwhile

    def set_release(self, manifest: Manifest) -> None:
        """From now on it is this manifest's engine that is served."""
        self._manifest = manifest

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def close_due_windows(self, now_ns: int) -> None:
        """Write the summary of each alert window that ended, and outages that could not be written before."""
        with self._opened() as connection:
            self._record_owed(connection)
            if alerts.has_due_windows(connection, now_ns):
                with transaction(connection):
                    alerts.close_due_windows(connection, now_ns)

    def close_unanswered(self, now_ns: int, live_boot_id: str) -> None:
        """Close admitted rows that nobody will answer."""
        with self._opened() as connection:
            Ledger(connection, self._manifest, live_boot_id).close_unanswered(now_ns)

    def forget_canaries(self, now_ns: int) -> None:
        """Delete some of the canary's rows that are older than `CANARY_KEPT_S`."""
        with self._opened() as connection:
            Ledger(connection, self._manifest, "").forget_canaries(now_ns - CANARY_KEPT_S * _NS_PER_S)

    def set_unanswered(self, boot_id: str, num_requests: int) -> None:
        """So many requests that this server start admitted are known to be dead."""
        with self._opened() as connection:
            Ledger(connection, self._manifest, boot_id).set_unanswered(num_requests)

    def window(self, now_ns: int) -> WindowFigures:
        """The figures of the last `WINDOW_S` seconds, without the canary's; outages are this parent's."""
        from_ns = now_ns - WINDOW_S * _NS_PER_S
        with self._opened() as connection:
            rows = connection.execute(_WINDOW, (from_ns,)).fetchall()
        flags = Counter(flag for _, joined in rows for flag in joined.split(","))
        breaches = {rule: flags[flag] for flag, rule in RULE_OF_FLAG.items()}
        with self._outage_lock:
            self._outages_ns = [at_ns for at_ns in self._outages_ns if at_ns >= from_ns]
            breaches[alerts.ENGINE_UNHEALTHY] = len(self._outages_ns)
        return WindowFigures(_p95([delay_us for delay_us, _ in rows]), breaches)

    def checkpoint(self) -> None:
        """Keep the write-ahead log from growing."""
        with self._opened() as connection:
            checkpoint(connection)

    def record_engine_unhealthy(self, now_ns: int, reason: str) -> None:
        """Report one outage; may be called from another thread than the rest."""
        with self._outage_lock:
            self._outages_ns.append(now_ns)
        try:
            with closing(self._open()) as connection, transaction(connection):
                self._record_outage(connection, now_ns, reason)
        except sqlite3.Error:
            with self._outage_lock:
                self._owed.append((now_ns, reason))
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

    def _record_owed(self, connection: sqlite3.Connection) -> None:
        with self._outage_lock:
            owed = list(self._owed)
        if owed:
            with transaction(connection):
                for now_ns, reason in owed:
                    self._record_outage(connection, now_ns, reason)
            with self._outage_lock:
                del self._owed[: len(owed)]

    def _record_outage(self, connection: sqlite3.Connection, now_ns: int, reason: str) -> None:
        engine = self._manifest.engine
        alerts.record_breach(
            connection,
            alerts.ENGINE_UNHEALTHY,
            alerts.Breach(1, request_id=reason),
            threshold=0,
            engine_hash=engine.hash,
            quantisation=engine.quantisation,
            now_ns=now_ns,
        )


def _inode(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return None


def _p95(values: list[int]) -> float | None:
    return float(sorted(values)[(len(values) * 95 - 1) // 100]) if values else None
