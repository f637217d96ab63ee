"""Rejections that are counted instead of stored, so that nobody can fill the disk with them.

A sender that can't name the engine or its tenant is anonymous: anybody can cause its rejections, as fast as the network
allows; and a tenant whose limits or share of the queue are reached can go on asking. Of these rejections a few rows of
each minute and code are stored as a sample. The others are counted by minute, code, task and engine. While the ledger
is near its size budget (`size_budget`), this holds for every rejection.
"""

from __future__ import annotations

import sqlite3

from llm_policy.errors import Code
from llm_policy.ledger.row_record import RowRecord

TABLES = """
CREATE TABLE IF NOT EXISTS rejection_count (
    minute INTEGER NOT NULL,       -- Unix time in minutes: the first one of the day once the day is rolled up
    code TEXT NOT NULL,
    task TEXT NOT NULL,
    engine_hash TEXT NOT NULL,
    num_samples INTEGER NOT NULL,  -- rows of this minute that the table request got as a sample
    num_rows INTEGER NOT NULL,     -- rejected rows that it does not hold
    PRIMARY KEY (minute, code, task, engine_hash)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ledger_size (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    used_bytes INTEGER NOT NULL,
    max_bytes INTEGER NOT NULL,    -- 0 without a budget
    level TEXT NOT NULL
);
"""

SAMPLE_ROWS = 2  # per minute and code: with the longest headers and every code in every minute, 42 MB a day
SAMPLED_CODES = frozenset(
    code.value
    for code in (
        *(Code.MISSING_HEADER, Code.INVALID_HEADER, Code.ENGINE_HASH_MISMATCH, Code.QUANTISATION_MISMATCH),
        *(Code.MISSING_API_KEY, Code.INVALID_API_KEY),
        *(Code.RATE_LIMITED, Code.TENANT_BUDGET_OVERRUN, Code.OVERLOADED),
    )
)
NS_PER_MINUTE = 60_000_000_000
MINUTES_PER_DAY = 1_440
MINUTES_KEPT = 7 * MINUTES_PER_DAY  # older ones are rolled up into days

_NUM_SAMPLES = "SELECT coalesce(sum(num_samples), 0) FROM rejection_count WHERE minute = ? AND code = ?"
_ADD = (
    "INSERT INTO rejection_count (minute, code, task, engine_hash, num_samples, num_rows) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (minute, code, task, engine_hash) DO UPDATE SET num_samples = num_samples + excluded.num_samples, "
    "num_rows = num_rows + excluded.num_rows"
)
_OLD_MINUTES = f"FROM rejection_count WHERE minute < ? AND minute % {MINUTES_PER_DAY} <> 0"
_HAS_OLD_MINUTES = f"SELECT EXISTS (SELECT 1 {_OLD_MINUTES})"
_ROLL_UP = (
    f"INSERT INTO rejection_count SELECT minute - minute % {MINUTES_PER_DAY}, code, task, engine_hash, "
    f"sum(num_samples), sum(num_rows) {_OLD_MINUTES} GROUP BY 1, 2, 3, 4 "
    "ON CONFLICT (minute, code, task, engine_hash) DO UPDATE SET num_samples = num_samples + excluded.num_samples, "
    "num_rows = num_rows + excluded.num_rows"
)


class RejectionCounts:
    """Decides which rejected rows of one transaction are stored, and counts the others. Call `write` at its end."""

    def __init__(self, connection: sqlite3.Connection, engine_hash: str, now_ns: int) -> None:
        self._connection = connection
        self._engine_hash = engine_hash
        self._minute = now_ns // NS_PER_MINUTE
        self._num_samples: dict[str, int] = {}  # of the minute, by code
        self._new: dict[tuple[str, str], list[int]] = {}  # samples and rows by code and task
        self._samples_all: bool | None = None

    def stores(self, row: RowRecord) -> bool:
        """Whether the table `request` gets this rejected row, maybe as a sample; `count` it otherwise."""
        if not self._is_sampled(row):
            return True
        if row.code not in self._num_samples:
            (number,) = self._connection.execute(_NUM_SAMPLES, (self._minute, row.code)).fetchone()
            self._num_samples[row.code] = number
        if self._num_samples[row.code] >= SAMPLE_ROWS:
            return False
        self._num_samples[row.code] += 1
        self._new.setdefault((row.code, row.task), [0, 0])[0] += 1
        return True

    def count(self, row: RowRecord) -> None:
        """Count a rejected row that the table `request` does not hold."""
        self._new.setdefault((row.code, row.task), [0, 0])[1] += 1

    def write(self) -> None:
        """Add to the stored counts."""
        for key, numbers in self._new.items():
            self._connection.execute(_ADD, (self._minute, *key, self._engine_hash, *numbers))

    def _is_sampled(self, row: RowRecord) -> bool:
        if row.is_canary:
            return False
        if not row.tenant or row.code in SAMPLED_CODES:
            return True
        if self._samples_all is None:
            found = self._connection.execute("SELECT level <> 'ok' FROM ledger_size").fetchone()
            self._samples_all = bool(found and found[0])
        return self._samples_all


def has_old_minutes(connection: sqlite3.Connection, now_ns: int) -> bool:
    """Whether `roll_up` would change anything."""
    (found,) = connection.execute(_HAS_OLD_MINUTES, (_oldest_kept(now_ns),)).fetchone()
    return bool(found)


def roll_up(connection: sqlite3.Connection, now_ns: int) -> None:
    """Add the counts of minutes that are older than `MINUTES_KEPT` to their day, in the caller's transaction."""
    values = (_oldest_kept(now_ns),)
    connection.execute(_ROLL_UP, values)
    connection.execute(f"DELETE {_OLD_MINUTES}", values)


def _oldest_kept(now_ns: int) -> int:
    return now_ns // NS_PER_MINUTE - MINUTES_KEPT
