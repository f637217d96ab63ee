"""Tenants for tests: a directory in memory, and tenants in a ledger."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass, field

from llm_policy.api_key import create_key, digest_of
from llm_policy.ledger.tenant import Tenant, TenantLimits


@dataclass
class MemoryDirectory:
    """A directory of tenants by API key."""

    tenants: dict[str, Tenant] = field(default_factory=dict)

    def find_tenant(self, key_digest: bytes) -> Tenant | None:
        return next((tenant for key, tenant in self.tenants.items() if digest_of(key) == key_digest), None)

    def is_registered(self, tenant: str) -> bool:
        return any(each.name == tenant for each in self.tenants.values())


def add_tenant(connection: sqlite3.Connection, name: str, limits: TenantLimits | None = None) -> str:
    """Register a tenant in the ledger behind `connection`; returns its API key."""
    key, now_ns = create_key(), time.time_ns()
    connection.execute(
        "INSERT OR REPLACE INTO tenant (name, created_ns, limits) VALUES (?, ?, ?)",
        (name, now_ns, (limits or TenantLimits()).as_text()),
    )
    connection.execute(
        "INSERT INTO tenant_key (digest, tenant, created_ns) VALUES (?, ?, ?)", (digest_of(key), name, now_ns)
    )
    return key
