import pytest

from llm_policy.ledger.rejection_count import SAMPLE_ROWS
from llm_policy.ledger.row_record import RowRecord
from tests.ledgers import NEW_ROW, admit, open_ledger, rejection, settlement
from tests.unit.ledger.ledger_command import DAY_NS, NOON_NS

ANONYMOUS = RowRecord(code="missing_header")
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


@pytest.fixture
def flooded(ledger):
    """The same ledger with rejected rows of each day that have no sender: a sample is stored, two are only counted."""
    for now_ns in (NOON_NS, NOON_NS + DAY_NS):
        ledger.record([[ANONYMOUS]] * (SAMPLE_ROWS + 2), now_ns)
    return ledger
