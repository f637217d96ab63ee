"""Delivery as the parent process runs it: one thread for each endpoint."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from llmstack.events.attempt_log import json_log
from llmstack.events.backlog import Backlog, read_backlog
from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.delivery_worker import DeliveryWorker
from llmstack.events.endpoint import Endpoint
from llmstack.events.outbox_file import open_outbox
from llmstack.events.retention import prune_step

_INTERRUPT_WAIT_S = 2.0
_NS_PER_DAY = 86_400 * 10**9


class DeliveryService:
    """Delivers the events in `state_dir` to `endpoints` from `start` to `stop`.

    Neither raises when the ledger can't be opened or written: the threads say so in the log and try again.
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
        """Begin to deliver. A service is started once."""
        for worker in self._workers:
            worker.start()

    def stop(self, grace_s: float = 5.0) -> None:
        """Start no further attempt, wait up to `grace_s` for those under way, then break them off."""
        for worker in self._workers:
            worker.ask_to_stop()
        deadline = time.monotonic() + grace_s
        late = [worker for worker in self._workers if not worker.join(max(0.0, deadline - time.monotonic()))]
        for worker in late:
            worker.interrupt()
        for worker in late:
            worker.join(_INTERRUPT_WAIT_S)

    def forget_old(self) -> None:
        """Delete some of the events that every receiver took long ago; whether anything can be sent now or not.

        Raises:
            sqlite3.Error: the ledger can't be written.
        """
        before_ns = self._settings.now_ns() - int(self._settings.retention_days * _NS_PER_DAY)
        with closing(open_outbox(self._state_dir)) as connection:
            prune_step(connection, before_ns)

    def backlog(self) -> list[Backlog]:
        """What waits for each endpoint there is, also for those without a webhook. Any thread may ask.

        Raises:
            sqlite3.Error: the ledger can't be read.
        """
        return read_backlog(self._state_dir, self._names, self._settings.now_ns())
