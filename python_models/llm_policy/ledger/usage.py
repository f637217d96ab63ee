"""Sums by tenant, day, task, schema and engine, and refusals by tenant, day and code.

They are changed in the transaction of each row, so they stay when rows are archived. A row belongs to the day on which
it was admitted. Canaries do not count.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

TABLES = """
CREATE TABLE IF NOT EXISTS usage_day (
    tenant TEXT NOT NULL,
    day INTEGER NOT NULL,           -- days since 1970
    task TEXT NOT NULL,
    schema_id TEXT NOT NULL,        -- 'ad hoc' for all guides of clients
    engine_hash TEXT NOT NULL,
    num_rows INTEGER NOT NULL,      -- closed rows that the engine was asked for
    num_prompt_tokens INTEGER NOT NULL,
    num_completion_tokens INTEGER NOT NULL,
    nano_usd INTEGER NOT NULL,
    PRIMARY KEY (tenant, day, task, schema_id, engine_hash)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusal_day (    -- of registered tenants
    tenant TEXT NOT NULL,
    day INTEGER NOT NULL,
    code TEXT NOT NULL,
    num_rows INTEGER NOT NULL,
    PRIMARY KEY (tenant, day, code)
) WITHOUT ROWID;
"""

SINCE_VERSION = 4  # of the ledger: an older one has rows, but no sums
AD_HOC = "ad hoc"
_DIGEST_PREFIX = "sha256:"
_ADD = (
    "INSERT INTO usage_day (tenant, day, task, schema_id, engine_hash, num_rows, num_prompt_tokens, "
    "num_completion_tokens, nano_usd) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (tenant, day, task, schema_id, engine_hash) DO UPDATE SET num_rows = num_rows + excluded.num_rows, "
    "num_prompt_tokens = num_prompt_tokens + excluded.num_prompt_tokens, "
    "num_completion_tokens = num_completion_tokens + excluded.num_completion_tokens, "
    "nano_usd = nano_usd + excluded.nano_usd"
)
_ADD_REFUSAL = (
    "INSERT INTO refusal_day (tenant, day, code, num_rows) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (tenant, day, code) DO UPDATE SET num_rows = num_rows + excluded.num_rows"
)
_FILL = (
    "INSERT INTO usage_day SELECT tenant, admitted_ns / 86400000000000, task, "  # noqa: S608 - constants
    f"CASE WHEN schema_id LIKE '{_DIGEST_PREFIX}%' THEN '{AD_HOC}' ELSE schema_id END, engine_hash, "
    "count(*), sum(num_prompt_tokens), sum(num_completion_tokens), sum(actual_nano_usd) "
    "FROM request WHERE state IN ('settled', 'cancelled', 'lost') AND canary = 0 GROUP BY 1, 2, 3, 4, 5"
)


class UsageKey(NamedTuple):
    """The group of a row."""

    tenant: str
    day: int
    task: str
    schema_id: str
    engine_hash: str


class Usage(NamedTuple):
    """Sums of one group, or what is added to them."""

    num_rows: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    nano_usd: int = 0


def schema_group(schema_id: str) -> str:
    """The group of a row's schema id."""
    return AD_HOC if schema_id.startswith(_DIGEST_PREFIX) else schema_id


def add(connection: sqlite3.Connection, usage: Mapping[UsageKey, Usage]) -> None:
    """Add to the sums, in the caller's transaction."""
    for key, sums in usage.items():
        connection.execute(_ADD, (*key, *sums))


def add_refusals(connection: sqlite3.Connection, refusals: Mapping[tuple[str, int, str], int]) -> None:
    """Add refused rows by tenant, day and code, in the caller's transaction."""
    for key, number in refusals.items():
        connection.execute(_ADD_REFUSAL, (*key, number))


def fill(connection: sqlite3.Connection) -> None:
    """Compute the sums from the rows of a ledger that has none yet, in the caller's transaction."""
    connection.execute("DELETE FROM usage_day")
    connection.execute(_FILL)
