"""An outbox in a temporary state directory, filled in the same way as by a stub."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from llm_policy.ledger.database import FILE_NAME, open_database
from llm_policy.ledger.outbox import READINESS, Event, append, new_event


class Outbox:
    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.connection = open_database(state_dir / FILE_NAME)

    def add(
        self, num_events: int = 1, endpoints: tuple[str, ...] = (READINESS,), time_ns: int = 10**18, **data: Any
    ) -> list[str]:
        """Append events, each in its own transaction. Returns their ids."""
        return [self._append(endpoints, time_ns, {"number": number, **data}).id for number in range(num_events)]

    def _append(self, endpoints: tuple[str, ...], time_ns: int, data: dict[str, Any]) -> Event:
        event = new_event("llm_observability_alert", data, time_ns)
        with closing(self.connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            append(self.connection, event, endpoints)
            cursor.execute("COMMIT")
        return event

    def rows(self, endpoint: str = READINESS) -> list[sqlite3.Row]:
        """The delivery rows of an endpoint, oldest event first."""
        cursor = self.connection.execute(
            "SELECT event.id, delivery.* FROM delivery JOIN event ON event.sequence = event_sequence "
            "WHERE endpoint = ? ORDER BY event_sequence",
            (endpoint,),
        )
        cursor.row_factory = sqlite3.Row
        return cursor.fetchall()

    def states(self, endpoint: str = READINESS) -> list[str]:
        return [row["state"] for row in self.rows(endpoint)]
