"""Delivers what is due now, in the foreground."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from llmstack.events.delivery_settings import DeliverySettings
from llmstack.events.endpoint import Endpoint
from llmstack.events.endpoint_lock import EndpointLock
from llmstack.events.outbox_file import open_outbox
from llmstack.events.webhook_dispatcher import WebhookDispatcher

_COUNT = "SELECT COUNT(*) FROM delivery WHERE endpoint = ? AND state = ?"


class DueReport(NamedTuple):
    """What became of one endpoint's deliveries in one run."""

    endpoint: str
    num_delivered: int
    num_failed: int
    num_pending: int  # still waiting

    @property
    def is_done(self) -> bool:
        """Whether nothing waits and nothing was given up."""
        return not self.num_failed and not self.num_pending


def deliver_due(
    state_dir: Path,
    endpoints: list[Endpoint],
    settings: DeliverySettings,
    log: Any,
    on_attempt: Callable[[str], None] = lambda endpoint: None,
) -> list[DueReport]:
    """Deliver to each of `endpoints` until nothing is due; a head that fails waits for its retry, and all behind it.

    Raises:
        EndpointBusy: another process delivers to one of them; nothing was sent then.
        OSError, sqlite3.Error: the state directory can't be written.
    """
    with ExitStack() as held:
        for endpoint in endpoints:
            held.enter_context(EndpointLock(state_dir, endpoint.name))
        connection = held.enter_context(closing(open_outbox(state_dir)))
        return [_deliver(connection, endpoint, settings, log, on_attempt) for endpoint in endpoints]


def _deliver(
    connection: sqlite3.Connection,
    endpoint: Endpoint,
    settings: DeliverySettings,
    log: Any,
    on_attempt: Callable[[str], None],
) -> DueReport:
    before = _counts(connection, endpoint.name)
    with closing(WebhookDispatcher(endpoint, settings, log)) as dispatcher:
        while dispatcher.deliver_next(connection) is None:
            on_attempt(endpoint.name)
    after = _counts(connection, endpoint.name)
    return DueReport(
        endpoint.name, after["delivered"] - before["delivered"], after["failed"] - before["failed"], after["pending"]
    )


def _counts(connection: sqlite3.Connection, endpoint: str) -> dict[str, int]:
    return {
        state: connection.execute(_COUNT, (endpoint, state)).fetchone()[0]
        for state in ("delivered", "failed", "pending")
    }
