"""Writes the ledger and the metrics of one stub. Thread-safe; reopens the files after a disk error.

If the disk is full or read-only, or the write lock is not free in time, the current requests are rejected: no request
is answered without a ledger row. The next requests try again, so service resumes without a restart. Rows that were
admitted and could not be closed are kept as pending rejections and flushed once the ledger can be written again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from llm_policy.errors import Code, LedgerUnavailable, PolicyError, Unavailable, create_error
from llm_policy.ledger import outbox
from llm_policy.ledger.database import FILE_NAME, is_locked, open_database
from llm_policy.ledger.ledger import Ledger
from llm_policy.ledger.row_record import RowRecord, rejected
from llm_policy.ledger.tenant import Tenant
from llm_policy.metrics.policy_metrics import PolicyMetrics
from llm_policy.release.manifest import Manifest

BOOT_ID = "LLMSTACK_BOOT_ID"
DRAINING = "draining"
RETRY_S = 1.0
Result = TypeVar("Result")


class LedgerWriter:
    """The ledger of one stub. Methods that write raise LedgerUnavailable if nothing could be written."""

    def __init__(self, state_dir: Path, manifest: Manifest, boot_id: str) -> None:
        self._state_dir = state_dir
        self._draining_path = str(state_dir / DRAINING)
        self._manifest = manifest
        self._boot_id = boot_id
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._metrics: PolicyMetrics | None = None
        # Apart from the ledger's: an event loop reads the metrics, and must not wait for a thread that writes.
        self._metrics_lock = threading.Lock()
        self._metrics_retry_s = 0.0  # monotonic time before which opening the metrics is not retried
        self._pending: list[Sequence[RowRecord]] = []  # rows to reject
        self._flush_timer: threading.Timer | None = None

    def open(self) -> None:
        """Open ledger and metrics before the first request; a failure is retried with the requests.

        Raises:
            InstanceError: the instance name is not valid in an event.
        """
        outbox.source()
        with contextlib.suppress(LedgerUnavailable):
            self._use(lambda ledger: None)
        _ = self.metrics

    def admission_error(self) -> Unavailable | None:
        """The error if no request is admitted now because the server drains, else None."""
        if os.path.exists(self._draining_path):  # noqa: PTH110 - a third of the time of Path.exists
            return Unavailable(Code.DRAINING, "this server is shutting down; try another server, or try again later")
        return None

    def refusal(self, sender: RowRecord) -> PolicyError | None:
        """The error if every request of this sender would be refused, and its last one was; else None."""
        if self._ledger is None:
            return None
        refusal = self._use(lambda ledger: ledger.refusal(sender.tenant, sender.is_authenticated))
        return create_error(refusal.code, refusal.detail) if refusal else None

    def find_tenant(self, key_digest: bytes) -> Tenant | None:
        """See `Ledger.find_tenant`."""
        return self._use(lambda ledger: ledger.find_tenant(key_digest))

    def is_registered(self, tenant: str) -> bool:
        """See `Ledger.is_registered`."""
        return self._use(lambda ledger: ledger.is_registered(tenant))

    def record(self, requests: Sequence[Sequence[RowRecord]]) -> list[list[RowRecord]]:
        """See `Ledger.record`."""
        return self._use(lambda ledger: ledger.record(requests))

    def settle(self, rows: Sequence[RowRecord]) -> list[bool]:
        """See `Ledger.settle`. On failure the caller must withhold the answers; their rows are rejected later."""
        try:
            return self._use(lambda ledger: ledger.settle(rows))
        except LedgerUnavailable as error:
            self._reject_later(rejected(rows, error.code))
            raise

    def reject(self, rows: Sequence[RowRecord]) -> None:
        """See `Ledger.reject`. On failure the rows are rejected later."""
        try:
            self._use(lambda ledger: ledger.reject(rows))
        except LedgerUnavailable:
            self._reject_later(rows)
            raise

    @property
    def metrics(self) -> PolicyMetrics | None:
        """The process's metrics; None while the disk takes no files. A request is served without metrics."""
        if self._metrics is None and time.monotonic() >= self._metrics_retry_s:
            with self._metrics_lock, contextlib.suppress(OSError):
                self._metrics_retry_s = time.monotonic() + RETRY_S
                self._metrics = self._metrics or PolicyMetrics(self._state_dir)
        return self._metrics

    def _use(self, work: Callable[[Ledger], Result]) -> Result:
        """Flush the pending rejections, then run `work` on the ledger."""
        with self._lock:
            try:
                ledger = self._open_ledger()
                while self._pending:
                    ledger.reject(self._pending[0])
                    del self._pending[0]
                return work(ledger)
            except sqlite3.Error as error:
                if not is_locked(error):
                    self._close_ledger()
                raise LedgerUnavailable(error) from None

    def _reject_later(self, rows: Sequence[RowRecord]) -> None:
        with self._lock:
            self._pending.append(rows)
            self._start_flush_timer()

    def _start_flush_timer(self) -> None:
        if self._flush_timer is None:
            self._flush_timer = threading.Timer(RETRY_S, self._flush_pending)
            self._flush_timer.daemon = True
            self._flush_timer.start()

    def _flush_pending(self) -> None:
        """Runs on the timer's thread. Open rows may fill the queue, so no request would trigger the retry."""
        try:
            with contextlib.suppress(LedgerUnavailable):
                self._use(lambda ledger: None)
        finally:
            with self._lock:
                self._flush_timer = None
                if self._pending:
                    self._start_flush_timer()

    def _open_ledger(self) -> Ledger:
        if self._ledger is None:
            connection = open_database(self._state_dir / FILE_NAME, busy_timeout_ms=0)
            self._ledger = Ledger(connection, self._manifest, self._boot_id)
        return self._ledger

    def _close_ledger(self) -> None:
        if self._ledger is not None:
            with contextlib.suppress(sqlite3.Error):
                self._ledger.connection.close()
            self._ledger = None


def boot_id() -> str:
    """The id of this start of the server: from the parent process, else derived from the stub's own parent."""
    return os.environ.get(BOOT_ID) or f"{os.getppid()}-{psutil.Process(os.getppid()).create_time():.2f}"
