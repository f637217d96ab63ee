"""Takes the deliveries of one endpoint to its webhook: always the head of the line, one at a time."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from llmstack.events.delivery_queue import DeliveryOutcome, DeliveryQueue, PendingDelivery
from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.endpoint import Endpoint
from llmstack.events.webhook_error import WebhookConfigurationError
from llmstack.events.webhook_sender import GONE, WebhookResponse, WebhookSender

_NS_PER_S = 1_000_000_000


class WebhookDispatcher:
    """Delivers to one endpoint over connections that the caller opens, and holds the endpoint's lock meanwhile."""

    def __init__(self, endpoint: Endpoint, settings: DeliverySettings, log: Any) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._log = log.bind(endpoint=endpoint.name, webhook=endpoint.origin)
        self._sender = WebhookSender(endpoint, settings.time_outs)
        # An outcome that could not be committed: it is committed first, lest a full disk repeat the request for ever.
        self._unrecorded: tuple[PendingDelivery, DeliveryOutcome] | None = None

    def interrupt(self) -> None:
        """Break off the attempt under way, and every later one; may be called from another thread."""
        self._sender.interrupt()

    def close(self) -> None:
        """Free what attempts used."""
        self._sender.close()

    def deliver_next(self, connection: sqlite3.Connection) -> float | None:
        """Attempt the head of the line if its time has come, and record what became of it.

        Returns:
            None after an attempt: the next may be due; else seconds until the head is: infinity when nothing waits.

        Raises:
            sqlite3.Error: the outcome, if there was one, is not recorded yet; the next call does that first.
            AttemptInterrupted: `interrupt` was called.
        """
        line = DeliveryQueue(connection, self._endpoint.name)
        self._record_outcome(line)
        head = line.head()
        if head is None:
            return float("inf")
        if line.is_disabled():
            self._log.warning("webhook_disabled", num_failed=line.fail_pending(), next="llmstack events replay")
            return 0.0
        wait_s = self._wait_s(head)
        if wait_s > 0:
            return wait_s
        self._attempt(head)
        self._record_outcome(line)
        return None

    def _wait_s(self, head: PendingDelivery) -> float:
        wait_s = (head.next_attempt_ns - self._settings.now_ns()) / _NS_PER_S
        return wait_s if wait_s <= self._settings.schedule.max_wait_s else 0.0  # the clock was set back

    def _attempt(self, head: PendingDelivery) -> None:
        self._refresh_secrets()
        started_ns, began = self._settings.now_ns(), time.monotonic()
        answer = self._sender.send(head.event, started_ns / _NS_PER_S)
        duration_ms = round((time.monotonic() - began) * 1000, 1)
        outcome = self._judge(head, answer, started_ns)
        self._unrecorded = head, outcome
        wait_s = (outcome.next_attempt_ns - outcome.ended_ns) / _NS_PER_S
        self._log.info(
            "webhook_attempt",
            event_id=head.event.id,
            event_type=head.event.type,
            attempt=head.num_attempts + 1,
            state=outcome.state,
            status=answer.status,
            error=outcome.error,
            duration_ms=duration_ms,
            next_attempt_in_s=round(wait_s, 1) if outcome.state == "pending" else None,
        )

    def _judge(self, head: PendingDelivery, answer: WebhookResponse, started_ns: int) -> DeliveryOutcome:
        now_ns, schedule, num_failures = self._settings.now_ns(), self._settings.schedule, head.num_attempts + 1
        if not answer.error:
            return DeliveryOutcome("delivered", started_ns, now_ns)
        if answer.status == GONE:
            reason = f"{answer.error} Gone: the receiver wants no more events"
            return DeliveryOutcome("failed", started_ns, now_ns, reason, disables_endpoint=True)
        if schedule.is_exhausted(num_failures, (now_ns - (head.first_attempt_ns or started_ns)) / _NS_PER_S):
            return DeliveryOutcome(
                "failed", started_ns, now_ns, f"given up after {num_failures} attempts: {answer.error}"
            )
        wait_s = schedule.wait_s(num_failures, answer.retry_after_s, self._settings.uniform)
        return DeliveryOutcome("pending", started_ns, now_ns, answer.error, now_ns + int(wait_s * _NS_PER_S))

    def _record_outcome(self, line: DeliveryQueue) -> None:
        if self._unrecorded is not None:
            line.record(*self._unrecorded)
            self._unrecorded = None

    def _refresh_secrets(self) -> None:
        try:
            self._endpoint.secrets.refresh()
        except WebhookConfigurationError as error:
            self._log.error("webhook_secrets_unusable", error=str(error), next="the former secrets stay in use")
