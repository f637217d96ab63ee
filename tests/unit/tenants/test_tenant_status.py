"""The status of tenants, read from a ledger that stubs wrote."""

import json
import time

import pytest

from llm_policy.api_key import digest_of
from llm_policy.ledger.budget_window import NS_PER_DAY, day_of
from llm_policy.ledger.database import FILE_NAME, open_read_only
from llm_policy.ledger.tenant import TenantLimits
from llmstack.tenants import tenant_status
from llmstack.tenants.tenant_status import MinuteUse, SpentMoney, read_statuses
from tests.ledgers import NEW_ROW, admit, open_ledger, settlement
from tests.tenants import add_tenant

ROW = NEW_ROW._replace(is_authenticated=True, max_completion_tokens=100)
NOON_NS = 20_000 * NS_PER_DAY + NS_PER_DAY // 2  # 2024-10-04
LIMITS = TenantLimits(max_nano_usd_per_day=1_000_000, max_requests_per_minute=3, tasks=("judge",))


@pytest.fixture
def ledger(tmp_path):
    ledger = open_ledger(tmp_path)
    yield ledger
    ledger.connection.close()


def test_a_tenant_without_requests_has_used_nothing(ledger):
    key = add_tenant(ledger.connection, "acme", LIMITS)
    (status,) = read_statuses(ledger.connection, time.time_ns())
    assert (status.name, status.limits) == ("acme", LIMITS)
    assert (status.money, status.last_minute) == (SpentMoney(), MinuteUse())
    assert (status.num_requests_in_flight, status.refusals_today) == (0, {})
    (only,) = status.keys
    assert (only.id, only.state, only.ends_ns) == (digest_of(key).hex()[:8], "valid", None)


def test_spent_and_reserved_money_is_that_of_the_day_and_of_the_month(ledger):
    add_tenant(ledger.connection, "acme")
    yesterday = settlement(admit(ledger, ROW, NOON_NS - NS_PER_DAY), ROW)
    ledger.settle([yesterday], NOON_NS - NS_PER_DAY + 1)
    last_month_ns = NOON_NS - 10 * NS_PER_DAY
    ledger.settle([settlement(admit(ledger, ROW, last_month_ns), ROW)], last_month_ns + 1)
    ledger.settle([settlement(admit(ledger, ROW, NOON_NS), ROW)], NOON_NS + 1)
    admit(ledger, ROW, NOON_NS + 1)
    (status,) = read_statuses(ledger.connection, NOON_NS + 2)
    spent = yesterday.actual_nano_usd
    assert status.money == SpentMoney(spent, ROW.projected_nano_usd, 2 * spent, ROW.projected_nano_usd)


def test_rates_and_requests_in_flight_follow_the_sliding_minute_and_the_open_requests(ledger):
    add_tenant(ledger.connection, "acme")
    ledger.settle([settlement(admit(ledger, ROW, NOON_NS), ROW)], NOON_NS + 1)
    two_rows = [ROW, ROW._replace(row_number=1, is_new_guide=True)]
    ledger.record([two_rows], NOON_NS + 30 * 10**9)
    (status,) = read_statuses(ledger.connection, NOON_NS + 31 * 10**9)
    assert status.last_minute == MinuteUse(2, 540 + 2 * 600, 1)
    assert status.num_requests_in_flight == 1
    (status,) = read_statuses(ledger.connection, NOON_NS + 75 * 10**9)
    assert status.last_minute == MinuteUse(1, 2 * 600, 1)


def test_refusals_are_counted_by_code_for_this_day_only(ledger):
    add_tenant(ledger.connection, "acme", TenantLimits(max_requests_per_minute=0, tasks=()))
    refused = ROW._replace(code="tenant_forbidden")
    ledger.record([[refused], [refused]], NOON_NS)
    ledger.record([[refused]], NOON_NS - NS_PER_DAY)
    ledger.record([[ROW._replace(code="unknown_task")]], NOON_NS)
    (status,) = read_statuses(ledger.connection, NOON_NS)
    assert status.refusals_today == {"tenant_forbidden": 2, "unknown_task": 1}


def test_keys_are_listed_oldest_first_with_their_states(ledger):
    add_tenant(ledger.connection, "acme")
    ledger.connection.execute("DELETE FROM tenant_key")
    for number, ends_ns in enumerate((NOON_NS, NOON_NS + 1, None)):
        values = (bytes([3 - number]) * 32, NOON_NS - 9 + number, ends_ns)
        ledger.connection.execute("INSERT INTO tenant_key VALUES (?, 'acme', ?, ?)", values)
    (status,) = read_statuses(ledger.connection, NOON_NS)
    assert [(key.id, key.state) for key in status.keys] == [
        ("03030303", "ended"),
        ("02020202", "rotated"),
        ("01010101", "valid"),
    ]
    assert status.num_valid_keys == 2


def test_tenants_are_sorted_and_do_not_share_what_they_use(ledger):
    for name in ("globex", "acme", "initech"):
        add_tenant(ledger.connection, name)
    admit(ledger, ROW, NOON_NS)
    ledger.record([[ROW._replace(tenant="globex", code="unknown_task")]], NOON_NS)
    statuses = read_statuses(ledger.connection, NOON_NS)
    assert [status.name for status in statuses] == ["acme", "globex", "initech"]
    assert [status.num_requests_in_flight for status in statuses] == [1, 0, 0]
    assert [status.refusals_today for status in statuses] == [{}, {"unknown_task": 1}, {}]
    assert [len(status.keys) for status in statuses] == [1, 1, 1]
    assert read_statuses(ledger.connection, NOON_NS, "globex") == [statuses[1]]
    assert read_statuses(ledger.connection, NOON_NS, "hooli") == []


def test_a_label_of_no_registered_tenant_is_left_out(ledger):
    admit(ledger, NEW_ROW, NOON_NS)
    assert read_statuses(ledger.connection, NOON_NS) == []


def test_json_has_money_in_nano_dollars_and_as_exact_decimals(ledger):
    add_tenant(ledger.connection, "acme", LIMITS)
    admit(ledger, ROW, NOON_NS)
    (status,) = read_statuses(ledger.connection, NOON_NS)
    data = json.loads(json.dumps(status.as_json()))
    assert (data["reserved_today_nano_usd"], data["reserved_today_usd"]) == (200_000, "0.000200000")
    assert data["limits"]["max_usd_per_day"] == "0.001000000"
    assert (data["limits"]["max_nano_usd_per_month"], data["limits"]["max_usd_per_month"]) == (None, None)
    assert data["limits"]["tasks"] == ["judge"]


def test_a_read_only_connection_is_enough(ledger, tmp_path):
    add_tenant(ledger.connection, "acme")
    connection = open_read_only(tmp_path / FILE_NAME)
    assert [status.name for status in read_statuses(connection, NOON_NS)] == ["acme"]
    assert not connection.in_transaction
    connection.close()


def test_each_table_is_searched_by_its_key(ledger):
    values = {"name": None, "day": day_of(NOON_NS), "first": 0, "end": 1, "from_s": 0, "to_s": 1}
    for query in (tenant_status._MONEY, tenant_status._RATES, tenant_status._REFUSALS):
        plan = [row[3] for row in ledger.connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
        assert any("SEARCH other USING PRIMARY KEY (tenant=?" in step for step in plan), plan
