"""What a stub writes down: the ledger and its measurements, opened when the disk lets and safe for two threads.

A full disk, a read-only one or a lock that is not free within its bound refuses the requests at hand: nothing is
answered unrecorded. The next requests try again, so service returns by itself. What was admitted before and could not
be closed is kept in mind and closed as soon as the disk lets.
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

from llm_policy.errors import Code, PolicyError, Unavailable
from llm_policy.ledger import outbox
from llm_policy.ledger.database import FILE_NAME, is_locked, open_database
from llm_policy.ledger.ledger import Entered, Entry, Ledger, OpenRow, Settlement
from llm_policy.metrics.metrics import PolicyMetrics
from llm_policy.release.manifest import Manifest

BOOT_ID = "LLMSTACK_BOOT_ID"
DRAINING = "draining"
RETRY_S = 1.0
UNWRITTEN = "the ledger can't be written"
Result = TypeVar("Result")


class LedgerUnavailable(PolicyError):
    """The ledger can't be written, so nothing is served; the same request may succeed later."""

    def __init__(self, cause: object) -> None:
        super().__init__(Code.INTERNAL, f"{UNWRITTEN} ({cause}), so nothing is served; try again later")


class LedgerWriter:
    """Writes the ledger of one stub. Every method raises LedgerUnavailable when nothing could be written."""

    def __init__(self, state_dir: Path, manifest: Manifest, boot_id: str) -> None:
        self._state_dir = state_dir
        self._draining_path = str(state_dir / DRAINING)
        self._manifest = manifest
        self._boot_id = boot_id
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._metrics: PolicyMetrics | None = None
        self._metrics_due_s = 0.0  # on the monotonic clock: not tried again before
        self._owed: list[tuple[Sequence[OpenRow], str]] = []  # rows to refuse, and the code
        self._retry: threading.Timer | None = None

    def open(self) -> None:
        """Open everything before the first request comes; what can't be opened now is tried again then.

        Raises:
            InstanceError: no event could say where it comes from.
        """
        outbox.source()
        with contextlib.suppress(LedgerUnavailable):
            self._use(lambda ledger: None)
        _ = self.metrics

    def closed(self) -> Unavailable | None:
        """Why no request is taken now, as far as that is known without looking closely; None when they are."""
        if os.path.exists(self._draining_path):  # noqa: PTH110 - a third of the time of Path.exists
            return Unavailable(Code.DRAINING, "this server is being stopped; try another one, or again later")
        if self._ledger is not None and self._use(lambda ledger: ledger.is_full()):
            return self.overload()
        return None

    def overload(self) -> Unavailable:
        """The refusal of a request that was shed."""
        limit = self._manifest.engine.max_queue_size
        return Unavailable(Code.OVERLOADED, f"{limit} requests wait for their answers, limit {limit} (max_queue_size)")

    def enter(self, requests: Sequence[Sequence[Entry]]) -> list[Entered]:
        """See `Ledger.enter`."""
        return self._use(lambda ledger: ledger.enter(requests))

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """See `Ledger.settle`; where it fails, the answers are withdrawn and their rows are owed a refusal."""
        try:
            return self._use(lambda ledger: ledger.settle(settlements))
        except LedgerUnavailable:
            rows = [OpenRow(row.ledger_id, row.task, row.is_canary) for row in settlements]
            self._owe(rows, Code.INTERNAL.value)
            raise

    def refuse(self, rows: Sequence[OpenRow], code: str) -> None:
        """See `Ledger.refuse`; where it fails, the rows are owed it."""
        try:
            self._use(lambda ledger: ledger.refuse(rows, code))
        except LedgerUnavailable:
            self._owe(rows, code)
            raise

    @property
    def metrics(self) -> PolicyMetrics | None:
        """Where measurements go; None while the disk takes none, for they are worth less than an answer."""
        if self._metrics is None and time.monotonic() >= self._metrics_due_s:
            with self._lock, contextlib.suppress(OSError):
                self._metrics_due_s = time.monotonic() + RETRY_S
                self._metrics = self._metrics or PolicyMetrics(self._state_dir)
        return self._metrics

    def _use(self, work: Callable[[Ledger], Result]) -> Result:
        with self._lock:
            try:
                ledger = self._open()
                while self._owed:
                    ledger.refuse(*self._owed[0])
                    del self._owed[0]
                return work(ledger)
            except sqlite3.Error as error:
                if not is_locked(error):
                    self._close()
                raise LedgerUnavailable(error) from None

    def _owe(self, rows: Sequence[OpenRow], code: str) -> None:
        with self._lock:
            self._owed.append((rows, code))
            self._retry_later()

    def _retry_later(self) -> None:
        if self._retry is None:
            self._retry = threading.Timer(RETRY_S, self._pay)
            self._retry.daemon = True
            self._retry.start()

    def _pay(self) -> None:
        """On the timer's thread: while these rows are open they fill the queue, so nobody may come who closes them."""
        with contextlib.suppress(LedgerUnavailable):
            self._use(lambda ledger: None)
        with self._lock:
            self._retry = None
            if self._owed:
                self._retry_later()

    def _open(self) -> Ledger:
        if self._ledger is None:
            connection = open_database(self._state_dir / FILE_NAME, busy_timeout_ms=0)
            self._ledger = Ledger(connection, self._manifest, self._boot_id)
        return self._ledger

    def _close(self) -> None:
        if self._ledger is not None:
            with contextlib.suppress(sqlite3.Error):
                self._ledger.connection.close()
            self._ledger = None


def boot_id() -> str:
    """Which start of the server this is: the parent says so, else it is known by the process that started the stub."""
    return os.environ.get(BOOT_ID) or f"{os.getppid()}-{psutil.Process(os.getppid()).create_time():.2f}"
