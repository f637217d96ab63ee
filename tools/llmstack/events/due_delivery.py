"""Delivers everything that is due, in the foreground."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from llmstack.events.delivery_queue import open_outbox
from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.endpoint import Endpoint
from llmstack.events.endpoint_lock import EndpointLock
from llmstack.events.webhook_dispatcher import WebhookDispatcher

_COUNT = "SELECT COUNT(*) FROM delivery WHERE endpoint = ? AND state = ?"


class DeliveryReport(NamedTuple):
    """The result of one run for one endpoint."""

    endpoint: str
    num_delivered: int
    num_failed: int  # given up in this run
    num_pending: int  # still pending

    @property
    def is_done(self) -> bool:
        """Whether nothing is pending and nothing was given up."""
        return not self.num_failed and not self.num_pending


def deliver_due(
    state_dir: Path,
    endpoints: list[Endpoint],
    settings: DeliverySettings,
    log: Any,
    on_attempt: Callable[[str], None] = lambda endpoint: None,
) -> list[DeliveryReport]:
    """Deliver to each of `endpoints` until nothing is due. A failed delivery blocks those behind it until its retry.

    `on_attempt` is called with the endpoint's name after each attempt.

    Raises:
        EndpointBusy: another process delivers to one of them; nothing was sent.
        OSError, sqlite3.Error: the state directory can't be written.
    """
    with ExitStack() as stack:
        for endpoint in endpoints:
            stack.enter_context(EndpointLock(state_dir, endpoint.name))
        connection = stack.enter_context(closing(open_outbox(state_dir)))
        return [_deliver(connection, endpoint, settings, log, on_attempt) for endpoint in endpoints]


def _deliver(
    connection: sqlite3.Connection,
    endpoint: Endpoint,
    settings: DeliverySettings,
    log: Any,
    on_attempt: Callable[[str], None],
) -> DeliveryReport:
    before = _counts(connection, endpoint.name)
    with closing(WebhookDispatcher(endpoint, settings, log)) as dispatcher:
        while dispatcher.deliver_next(connection) is None:
            on_attempt(endpoint.name)
    after = _counts(connection, endpoint.name)
    return DeliveryReport(
        endpoint.name, after["delivered"] - before["delivered"], after["failed"] - before["failed"], after["pending"]
    )


def _counts(connection: sqlite3.Connection, endpoint: str) -> dict[str, int]:
    return {
        state: connection.execute(_COUNT, (endpoint, state)).fetchone()[0]
        for state in ("delivered", "failed", "pending")
    }
