"""Delivery as the parent process runs it: one thread for each endpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from llmstack.events.backlog import Backlog, read_backlog
from llmstack.events.delivery_queue import open_outbox
from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.delivery_worker import DeliveryWorker
from llmstack.events.endpoint import Endpoint
from llmstack.events.json_log import json_log
from llmstack.events.retention import prune_step

_INTERRUPT_WAIT_S = 2.0
_NS_PER_DAY = 86_400 * 10**9


class DeliveryService:
    """Delivers the events in `state_dir` to `endpoints` from `start` to `stop`.

    Neither method raises when the ledger can't be opened or written: the threads log the error and retry.
    """

    def __init__(
        self, state_dir: Path, endpoints: Sequence[Endpoint], settings: DeliverySettings | None = None, log: Any = None
    ) -> None:
        self._state_dir = state_dir
        self._settings = settings or DeliverySettings()
        self._names = [endpoint.name for endpoint in endpoints]
        log = log or json_log()
        self._workers = [DeliveryWorker(state_dir, endpoint, self._settings, log) for endpoint in endpoints]

    def start(self) -> None:
        """Start the threads. Call it once."""
        for worker in self._workers:
            worker.start()

    def stop(self, grace_s: float = 5.0) -> None:
        """Start no further attempt, wait up to `grace_s` for those in progress, then cancel them."""
        for worker in self._workers:
            worker.request_stop()
        deadline = time.monotonic() + grace_s
        late = [worker for worker in self._workers if not worker.join(max(0.0, deadline - time.monotonic()))]
        for worker in late:
            worker.interrupt()
        for worker in late:
            worker.join(_INTERRUPT_WAIT_S)

    def prune_old_events(self) -> None:
        """Delete some of the events that every receiver took longer than the retention ago.

        Raises:
            sqlite3.Error: the ledger can't be written.
        """
        before_ns = self._settings.now_ns() - int(self._settings.retention_days * _NS_PER_DAY)
        with closing(open_outbox(self._state_dir)) as connection:
            prune_step(connection, before_ns)

    def backlog(self) -> list[Backlog]:
        """The backlog of every endpoint, configured or not. Safe to call from any thread.

        Raises:
            sqlite3.Error: the ledger can't be read.
        """
        return read_backlog(self._state_dir, self._names, self._settings.now_ns())
