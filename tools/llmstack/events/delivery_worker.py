"""The thread that delivers to one endpoint. A receiver that hangs holds up its own thread and nothing else."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.endpoint import Endpoint
from llmstack.events.endpoint_lock import EndpointBusy, EndpointLock
from llmstack.events.outbox_file import open_outbox
from llmstack.events.webhook_dispatcher import WebhookDispatcher
from llmstack.events.webhook_sender import AttemptInterrupted


class DeliveryWorker:
    """Delivers the events of one endpoint until it is stopped, whatever goes wrong in between."""

    def __init__(self, state_dir: Path, endpoint: Endpoint, settings: DeliverySettings, log: Any) -> None:
        self._state_dir = state_dir
        self._endpoint = endpoint
        self._settings = settings
        self._log = log.bind(endpoint=endpoint.name)
        self._courier = WebhookDispatcher(endpoint, settings, log)
        self._stop = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name=f"deliver-{endpoint.name}", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Start no further attempt."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the attempt under way; whether the thread has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def interrupt(self) -> None:
        """Break off the attempt under way: it is repeated, under the same id, at the next start."""
        self._courier.interrupt()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._deliver_with_lock()
            except EndpointBusy:
                self._complain("another process delivers to this endpoint")
            except AttemptInterrupted:
                break
            except Exception as error:  # the thread must outlive a full disk, a missing directory, a broken file
                self._complain(f"{type(error).__name__}: {error}")
            self._stop.wait(self._settings.poll_s)
        self._courier.close()

    def _deliver_with_lock(self) -> None:
        with EndpointLock(self._state_dir, self._endpoint.name), closing(open_outbox(self._state_dir)) as connection:
            while not self._stop.is_set():
                wait_s = self._courier.deliver_next(connection)
                self._trouble = ""
                if wait_s is not None:
                    self._stop.wait(min(wait_s, self._settings.poll_s))

    def _complain(self, trouble: str) -> None:
        """Log `trouble` once, not with every try."""
        if trouble != self._trouble:
            self._log.error("delivery_stuck", error=trouble)
            self._trouble = trouble
