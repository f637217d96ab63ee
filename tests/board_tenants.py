"""A ledger with tenants whose use fills the board's pages."""

import time
from pathlib import Path

from llm_policy.ledger.budget_window import NS_PER_DAY
from llm_policy.ledger.tenant import TenantLimits
from tests.ledgers import NEW_ROW, admit, open_ledger, settlement
from tests.tenants import add_tenant

ROW = NEW_ROW._replace(is_authenticated=True, projected_nano_usd=100_000_000, max_completion_tokens=200)
DOLLAR = 1_000_000_000
LIMITS = {
    "acme": TenantLimits(5 * DOLLAR, 500 * DOLLAR, 100_000, 600, 4, 10, ("judge",), ("order",)),
    "nearly-spent": TenantLimits(max_nano_usd_per_day=600_000_000),
    "spent": TenantLimits(max_nano_usd_per_day=160_000_000, max_nano_usd_per_month=1),
    "without-limits": TenantLimits(),
    "a-name-of-sixty-four-characters-" + "x" * 32: TenantLimits(max_requests_per_minute=1),
}


def write_tenants(state_dir: Path, num_days: int = 40) -> dict[str, str]:
    """Write a ledger with `num_days` of use of acme, and some use of the others today. Returns their API keys."""
    state_dir.mkdir(parents=True, exist_ok=True)
    ledger, now_ns = open_ledger(state_dir), time.time_ns()
    keys = {name: add_tenant(ledger.connection, name) for name in LIMITS}
    for age in range(num_days):
        for task, schema_id in (("judge", "order"), ("extract", "sha256:" + "a" * 64)):
            at_ns, row = now_ns - age * NS_PER_DAY, ROW._replace(tenant="acme", task=task, schema_id=schema_id)
            cost = (1 + age * 7 % 13) * 120_000_000
            ledger.settle([settlement(admit(ledger, row, at_ns), row, actual_nano_usd=cost)], at_ns)
    for name, cost in (("nearly-spent", 500_000_000), ("spent", 160_000_000)):
        row = ROW._replace(tenant=name)
        ledger.settle([settlement(admit(ledger, row), row, actual_nano_usd=cost)])
    admit(ledger, ROW)
    for name, limits in LIMITS.items():
        ledger.connection.execute("UPDATE tenant SET limits = ? WHERE name = ?", (limits.as_text(), name))
    ledger.record([[ROW._replace(tenant="spent")]])
    ledger.connection.execute("UPDATE tenant_key SET ends_ns = 1 WHERE tenant = 'spent'")
    ledger.connection.execute("UPDATE tenant_key SET ends_ns = ? WHERE tenant = 'acme'", (now_ns + NS_PER_DAY,))
    keys["acme, new"] = add_tenant(ledger.connection, "acme", LIMITS["acme"])
    ledger.connection.close()
    return keys
