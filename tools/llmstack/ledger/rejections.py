"""Reads the counts of rejected rows that the ledger does not hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from llm_policy.ledger.rejection_count import NS_PER_MINUTE
from llmstack.ledger.period import Period

# The SQL expression of each group of a report. A count has neither tenant nor schema.
COUNTED_GROUPS = {
    "day": "date(minute * 60, 'unixepoch')",
    "tenant": "''",
    "task": "task",
    "engine": "engine_hash",
    "schema": "''",
    "code": "code",
}
_IN_PERIOD = "FROM rejection_count WHERE minute >= ? AND minute < ? AND num_rows > 0"


class Rejections(NamedTuple):
    """The rejected rows of one minute (Unix time in minutes), code, task and engine that have no row.

    Minutes older than a week are those of a whole day, at its first minute.
    """

    minute: int
    code: str
    task: str
    engine_hash: str
    num_rows: int

    def as_json(self) -> dict[str, Any]:
        """All fields, the minute as RFC 3339."""
        moment = datetime.fromtimestamp(self.minute * 60, timezone.utc)
        return {**self._asdict(), "minute": f"{moment:%Y-%m-%dT%H:%M:%SZ}"}


def read_rejections(connection: sqlite3.Connection, period: Period) -> list[Rejections]:
    """The counts in the period, oldest first."""
    rows = _execute(
        connection,
        f"SELECT minute, code, task, engine_hash, num_rows {_IN_PERIOD} ORDER BY 1, 2, 3, 4",
        _minutes(period),
    )
    return [Rejections(*row) for row in rows]


def count_rejections(
    connection: sqlite3.Connection, group_names: Sequence[str], period: Period
) -> dict[tuple[str, ...], int]:
    """The number of rows that are only counted, by the keys of a report's groups."""
    keys = ", ".join(COUNTED_GROUPS[name] for name in group_names)
    columns = ", ".join(str(column + 1) for column in range(len(group_names)))
    rows = _execute(
        connection,
        f"SELECT {keys}, sum(num_rows) {_IN_PERIOD} GROUP BY {columns}",
        _minutes(period),
    )
    return {tuple(row[:-1]): row[-1] for row in rows}


def _minutes(period: Period) -> tuple[int, int]:
    return -(-period.from_ns // NS_PER_MINUTE), -(-period.until_ns // NS_PER_MINUTE)


def _execute(connection: sqlite3.Connection, query: str, values: tuple[int, int]) -> list[tuple[Any, ...]]:
    try:
        return connection.execute(query, values).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # an earlier version wrote the ledger: every rejected row is stored
            return []
        raise
