"""Tenants, their limits and the digests of their API keys."""

from __future__ import annotations

import hmac
import json
import sqlite3
from functools import lru_cache
from typing import NamedTuple

TABLES = """
CREATE TABLE IF NOT EXISTS tenant (
    name TEXT PRIMARY KEY,
    created_ns INTEGER NOT NULL,
    limits TEXT NOT NULL            -- JSON object: the fields of TenantLimits that are not null
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tenant_key (
    digest BLOB PRIMARY KEY,        -- SHA-256 of the key
    tenant TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    ends_ns INTEGER                 -- Unix time from which it is not valid any more: revoked, or rotated out
) WITHOUT ROWID;
"""

_FIND_KEY = (
    "SELECT digest, name, limits FROM tenant_key JOIN tenant ON name = tenant "
    "WHERE digest = ? AND (ends_ns IS NULL OR ends_ns > ?)"
)


class TenantLimits(NamedTuple):
    """What a tenant may use. None: no limit. Windows of budgets are UTC days and months; those of rates slide."""

    max_nano_usd_per_day: int | None = None
    max_nano_usd_per_month: int | None = None
    max_tokens_per_minute: int | None = None
    max_requests_per_minute: int | None = None
    max_concurrent_requests: int | None = None
    max_adhoc_guides_per_minute: int | None = None
    tasks: tuple[str, ...] | None = None
    schemas: tuple[str, ...] | None = None

    def as_text(self) -> str:
        """The JSON text that the table holds."""
        return json.dumps({name: value for name, value in self._asdict().items() if value is not None})


class Tenant(NamedTuple):
    """A tenant whose key was checked."""

    name: str
    limits: TenantLimits


@lru_cache(1_024)
def parse_limits(text: str) -> TenantLimits:
    """The limits in a text that `as_text` made; fields that only a later version knows are left out."""
    fields = {name: value for name, value in json.loads(text).items() if name in TenantLimits._fields}
    for name in ("tasks", "schemas"):
        if name in fields:
            fields[name] = tuple(fields[name])
    return TenantLimits(**fields)


def find_by_key(connection: sqlite3.Connection, digest: bytes, now_ns: int) -> Tenant | None:
    """The tenant of the valid key with this digest. A change is seen by the next request of every process.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    row = connection.execute(_FIND_KEY, (digest, now_ns)).fetchone()
    if row is None or not hmac.compare_digest(row[0], digest):
        return None
    return Tenant(row[1], parse_limits(row[2]))


def is_registered(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a tenant of this name exists.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    return connection.execute("SELECT 1 FROM tenant WHERE name = ?", (name,)).fetchone() is not None


def read_limits(connection: sqlite3.Connection, name: str) -> TenantLimits:
    """The limits of a tenant as they are now; none for one that does not exist.

    Raises:
        sqlite3.Error: the ledger can't be read.
    """
    row = connection.execute("SELECT limits FROM tenant WHERE name = ?", (name,)).fetchone()
    return parse_limits(row[0]) if row else TenantLimits()
