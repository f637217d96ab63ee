"""Dispatches the deliveries of one endpoint to its webhook: always the head of the queue, one at a time."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from llmstack.events.delivery_queue import DeliveryOutcome, DeliveryQueue, PendingDelivery
from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.endpoint import Endpoint
from llmstack.events.secret_file import WebhookConfigurationError
from llmstack.events.webhook_sender import GONE, WebhookResponse, WebhookSender

_NS_PER_S = 1_000_000_000


class WebhookDispatcher:
    """Delivers to one endpoint. The caller opens the connections and holds the endpoint's lock."""

    def __init__(self, endpoint: Endpoint, settings: DeliverySettings, log: Any) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._log = log.bind(endpoint=endpoint.name, webhook=endpoint.origin)
        self._sender = WebhookSender(endpoint, settings.timeouts)
        # An outcome whose commit failed. It is committed before the next attempt, so that a full disk does not repeat
        # the request forever.
        self._unrecorded: tuple[PendingDelivery, DeliveryOutcome] | None = None

    def interrupt(self) -> None:
        """Cancel the attempt in progress and every later one; may be called from another thread."""
        self._sender.interrupt()

    def close(self) -> None:
        """Free the sender's resources."""
        self._sender.close()

    def deliver_next(self, connection: sqlite3.Connection) -> float | None:
        """Attempt the head of the queue if it is due, and record the outcome.

        Returns:
            None after an attempt, because the next delivery may be due; else the seconds until the head is due,
            infinity without pending deliveries.

        Raises:
            sqlite3.Error: an outcome may not be recorded yet; the next call records it first.
            AttemptInterrupted: `interrupt` was called.
        """
        queue = DeliveryQueue(connection, self._endpoint.name)
        self._record_outcome(queue)
        head = queue.head()
        if head is None:
            return float("inf")
        if queue.is_disabled():
            self._log.warning("webhook_disabled", num_failed=queue.fail_pending(), next="llmstack events replay")
            return 0.0
        wait_s = self._wait_s(head)
        if wait_s > 0:
            return wait_s
        self._attempt(head)
        self._record_outcome(queue)
        return None

    def _wait_s(self, delivery: PendingDelivery) -> float:
        wait_s = (delivery.next_attempt_ns - self._settings.now_ns()) / _NS_PER_S
        return wait_s if wait_s <= self._settings.schedule.max_wait_s else 0.0  # longer: the clock was set back

    def _attempt(self, delivery: PendingDelivery) -> None:
        self._refresh_secrets()
        started_ns, began = self._settings.now_ns(), time.monotonic()
        response = self._sender.send(delivery.event, started_ns / _NS_PER_S)
        duration_ms = round((time.monotonic() - began) * 1000, 1)
        outcome = self._outcome(delivery, response, started_ns)
        self._unrecorded = delivery, outcome
        wait_s = (outcome.next_attempt_ns - outcome.ended_ns) / _NS_PER_S
        log = self._log.warning if response.error else self._log.info
        log(
            "webhook_attempt",
            event_id=delivery.event.id,
            event_type=delivery.event.type,
            attempt=delivery.num_attempts + 1,
            state=outcome.state,
            status=response.status,
            error=outcome.error,
            duration_ms=duration_ms,
            next_attempt_in_s=round(wait_s, 1) if outcome.state == "pending" else None,
        )

    def _outcome(self, delivery: PendingDelivery, response: WebhookResponse, started_ns: int) -> DeliveryOutcome:
        now_ns, schedule, num_failures = self._settings.now_ns(), self._settings.schedule, delivery.num_attempts + 1
        if not response.error:
            return DeliveryOutcome("delivered", started_ns, now_ns)
        if response.status == GONE:
            reason = f"{response.error} Gone: the receiver accepts no more events"
            return DeliveryOutcome("failed", started_ns, now_ns, reason, disables_endpoint=True)
        if schedule.is_exhausted(num_failures, (now_ns - (delivery.first_attempt_ns or started_ns)) / _NS_PER_S):
            error = f"given up after {num_failures} attempts: {response.error}"
            return DeliveryOutcome("failed", started_ns, now_ns, error)
        wait_s = schedule.wait_s(num_failures, response.retry_after_s, self._settings.uniform)
        return DeliveryOutcome("pending", started_ns, now_ns, response.error, now_ns + int(wait_s * _NS_PER_S))

    def _record_outcome(self, queue: DeliveryQueue) -> None:
        if self._unrecorded is not None:
            queue.record(*self._unrecorded)
            self._unrecorded = None

    def _refresh_secrets(self) -> None:
        try:
            self._endpoint.secrets.refresh()
        except WebhookConfigurationError as error:
            self._log.error("webhook_secrets_unusable", error=str(error), next="the previous secrets stay in use")
