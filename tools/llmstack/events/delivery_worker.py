"""The thread that delivers to one endpoint. A receiver that hangs blocks only its own thread."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from llmstack.events.delivery_queue import open_outbox
from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.endpoint import Endpoint
from llmstack.events.endpoint_lock import EndpointBusy, EndpointLock
from llmstack.events.webhook_dispatcher import WebhookDispatcher
from llmstack.events.webhook_sender import AttemptInterrupted


class DeliveryWorker:
    """Delivers the events of one endpoint until it is stopped; errors are logged and retried."""

    def __init__(self, state_dir: Path, endpoint: Endpoint, settings: DeliverySettings, log: Any) -> None:
        self._state_dir = state_dir
        self._endpoint = endpoint
        self._settings = settings
        self._log = log.bind(endpoint=endpoint.name)
        self._dispatcher = WebhookDispatcher(endpoint, settings, log)
        self._stop = threading.Event()
        self._logged_error = ""
        self._thread = threading.Thread(target=self._run, name=f"deliver-{endpoint.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def request_stop(self) -> None:
        """Start no further attempt."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the attempt in progress; returns whether the thread has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def interrupt(self) -> None:
        """Cancel the attempt in progress. The next start repeats it under the same id."""
        self._dispatcher.interrupt()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._deliver_with_lock()
            except EndpointBusy:
                self._log_once("another process delivers to this endpoint")
            except AttemptInterrupted:
                break
            except Exception as error:  # the thread must survive a full disk, a missing directory, a damaged file
                self._log_once(f"{type(error).__name__}: {error}")
            self._stop.wait(self._settings.poll_s)
        self._dispatcher.close()

    def _deliver_with_lock(self) -> None:
        with EndpointLock(self._state_dir, self._endpoint.name), closing(open_outbox(self._state_dir)) as connection:
            while not self._stop.is_set():
                wait_s = self._dispatcher.deliver_next(connection)
                self._logged_error = ""
                if wait_s is not None:
                    self._stop.wait(min(wait_s, self._settings.poll_s))

    def _log_once(self, error: str) -> None:
        """Log `error` unless it is the error that was logged last."""
        if error != self._logged_error:
            self._log.error("delivery_stuck", error=error)
            self._logged_error = error
