"""The table of the ledger: one row for each row of each request that reached preprocess, unless it is only counted."""

from __future__ import annotations

import sqlite3

ADMITTED, SETTLED, REFUSED, CANCELLED, LOST = STATES = ("admitted", "settled", "refused", "cancelled", "lost")

TABLES = """
CREATE TABLE IF NOT EXISTS request (
    id INTEGER PRIMARY KEY,                 -- unique, unlike the client's request_id
    request_id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    task TEXT NOT NULL,
    schema_id TEXT NOT NULL,
    engine_hash TEXT NOT NULL,
    boot_id TEXT NOT NULL,                  -- the start of tritonserver that admitted it
    row_number INTEGER NOT NULL,            -- its index in a request of several rows
    canary INTEGER NOT NULL,
    num_prompt_tokens INTEGER NOT NULL,
    num_completion_tokens INTEGER NOT NULL DEFAULT 0,
    projected_nano_usd INTEGER NOT NULL,    -- the worst case
    actual_nano_usd INTEGER NOT NULL,       -- known so far: the prompt alone until it is settled
    reserved_tokens INTEGER,                -- beside projected_nano_usd, if it came with a key
    queue_delay_us INTEGER,
    flags TEXT NOT NULL DEFAULT '',         -- separated by commas
    state TEXT NOT NULL CHECK (state IN ('admitted', 'settled', 'refused', 'cancelled', 'lost')),
    swept_as TEXT NOT NULL DEFAULT '',      -- settled after it was cancelled or lost: that earlier state
    code TEXT NOT NULL DEFAULT '',          -- the error code of a refused row
    admitted_ns INTEGER NOT NULL,           -- Unix time; set for refused rows too
    closed_ns INTEGER                       -- Unix time
);
CREATE INDEX IF NOT EXISTS request_open ON request (boot_id, admitted_ns, row_number) WHERE state = 'admitted';
CREATE INDEX IF NOT EXISTS request_answered ON request (closed_ns) WHERE state = 'settled' AND canary = 0;
CREATE INDEX IF NOT EXISTS request_canary ON request (admitted_ns) WHERE canary = 1;
CREATE INDEX IF NOT EXISTS request_refused ON request (admitted_ns) WHERE state = 'refused' AND canary = 0;
"""

LAST_VERSION_WITH_RESERVATIONS = 4  # had a table of them
_ADDED_COLUMNS = {"request": "reserved_tokens", "tenant_day": "safe_nano_usd"}


def upgrade(connection: sqlite3.Connection) -> None:
    """Add columns to the tables of an earlier version, and move its reservations into their rows.

    In the caller's transaction.
    """
    for table, added in _ADDED_COLUMNS.items():
        columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
        if columns and added not in columns:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {added} INTEGER")
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'reservation'").fetchone()
    if found is not None:
        connection.execute(
            "UPDATE request SET reserved_tokens = num_tokens FROM reservation "
            "WHERE id = ledger_id AND state = 'admitted'"
        )
        connection.execute("DROP TABLE reservation")
