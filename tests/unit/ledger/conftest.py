import pytest

from tests.ledgers import NEW_ROW, admit, open_ledger, rejection, settlement
from tests.unit.ledger.ledger_command import DAY_NS, NOON_NS

CANARY = NEW_ROW._replace(tenant="llmstack-canary", is_canary=True)


@pytest.fixture
def ledger(tmp_path):
    """Two days, two tenants, and rows in every state except lost."""
    ledger = open_ledger(tmp_path)
    other = NEW_ROW._replace(tenant="globex", task="")
    for now_ns in (NOON_NS, NOON_NS + DAY_NS):
        ledger.settle([settlement(admit(ledger, NEW_ROW, now_ns), flags=["cost_breach", "truncated"])], now_ns + 1)
        ledger.settle([settlement(admit(ledger, other, now_ns), other)], now_ns + 1)
    ledger.record([[other._replace(code="unknown_task")]], NOON_NS)
    ledger.reject([rejection(admit(ledger, NEW_ROW, NOON_NS), "guidance_unavailable")], NOON_NS + 1)
    ledger.settle([settlement(admit(ledger, CANARY, NOON_NS), CANARY)], NOON_NS + 1)
    admit(ledger, NEW_ROW, NOON_NS)
    ledger.close_unanswered(NOON_NS + DAY_NS)
    admit(ledger, NEW_ROW)
    yield ledger
    ledger.connection.close()
