"""`llmstack ledger verify`."""

import time

import pytest

from llm_policy.ledger.tenant import TenantLimits
from llmstack.events.retention import prune_step
from tests.ledgers import NEW_ROW, admit, open_ledger, settlement
from tests.tenants import add_tenant
from tests.unit.ledger.ledger_command import DAY_NS, run, run_json

TAMPERED = {
    "a cost": "UPDATE request SET actual_nano_usd = actual_nano_usd + 1 WHERE state = 'settled' AND canary = 0",
    "a row": "DELETE FROM request WHERE id = 1",
    "a state": "UPDATE request SET state = 'refused', code = 'internal', actual_nano_usd = 0 WHERE id = 1",
    "tokens": "UPDATE request SET num_completion_tokens = 0 WHERE id = 1",
    "a flag": "UPDATE request SET flags = '' WHERE id = 1",
    "a code": "UPDATE request SET code = 'internal' WHERE code = 'unknown_task'",
    "a total": "UPDATE metric_total SET value = value + 1 WHERE name = 'llm_tokens_in_total'",
    "an event": "DELETE FROM event WHERE sequence = 1",
    "a delivery": "DELETE FROM delivery WHERE event_sequence = 1",
    "a window": "UPDATE alert_window SET num_breaches = num_breaches + 1",
    "a count of rejections": "UPDATE rejection_count SET num_rows = num_rows + 1 WHERE code = 'missing_header'",
    "an open row": "UPDATE request SET admitted_ns = admitted_ns - 700000000000 WHERE state = 'admitted'",
}


def test_a_consistent_ledger_has_no_discrepancies(ledger, tmp_path):
    result = run_json(tmp_path, "verify")
    assert list(result) == [
        *("num_rows", "num_archived", "num_only_counted", "num_events", "cost_nano_usd", "findings", "not_compared")
    ]
    assert result["findings"] == []
    assert (result["num_rows"], result["num_only_counted"]) == (9, 0)
    assert "the ledger agrees with its totals" in run(tmp_path, "verify").stdout


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_any_tampering_is_found(change, flooded, tmp_path):
    assert flooded.connection.execute(change).rowcount
    result = run_json(tmp_path, "verify", exit_code=1)
    assert result["findings"]
    assert "next:" in run(tmp_path, "verify", exit_code=1).stdout


def test_rows_of_a_releases_own_task_agree_with_the_totals(ledger, tmp_path):
    own = NEW_ROW._replace(task="summarise")
    ledger.settle([settlement(admit(ledger, own), own)])
    assert run_json(tmp_path, "verify")["findings"] == []


def test_rejected_rows_that_are_only_counted_agree_with_the_totals(flooded, tmp_path):
    result = run_json(tmp_path, "verify")
    assert (result["findings"], result["num_only_counted"]) == ([], 4)
    assert "4 rejected ones only counted" in " ".join(run(tmp_path, "verify").stdout.split())


def test_a_ledger_of_the_version_before_the_counts_is_consistent(ledger, tmp_path):
    for statement in ("DROP TABLE rejection_count", "DROP TABLE ledger_size", "PRAGMA user_version = 2"):
        ledger.connection.execute(statement)
    assert run_json(tmp_path, "verify")["findings"] == []
    assert run_json(tmp_path, "rejections") == {"rejections": []}
    open_ledger(tmp_path).connection.close()
    assert run_json(tmp_path, "verify")["findings"] == []


def test_an_event_deleted_with_its_delivery_is_found(ledger, tmp_path):
    ledger.connection.execute("DELETE FROM delivery WHERE event_sequence = 1")
    ledger.connection.execute("DELETE FROM event WHERE sequence = 1")
    assert "deleted events" in [finding["check"] for finding in run_json(tmp_path, "verify", exit_code=1)["findings"]]


def deliver_all(ledger):
    ledger.connection.execute("UPDATE delivery SET state = 'delivered', delivered_ns = 1")


def test_breaches_are_compared_with_alerts_that_the_retention_deleted(ledger, tmp_path):
    deliver_all(ledger)
    assert prune_step(ledger.connection, 2) > 1
    assert ledger.connection.execute("SELECT count(*) FROM event").fetchone() == (0,)
    assert run_json(tmp_path, "verify")["not_compared"] == []
    ledger.connection.execute("UPDATE pruned_total SET value = value + 1 WHERE endpoint = 'finance'")
    (finding,) = run_json(tmp_path, "verify", exit_code=1)["findings"]
    assert finding["check"] == "breaches of cost reported to finance or pending"


def test_a_check_that_is_not_possible_is_reported(ledger, tmp_path):
    """Version 1 deleted events without counting the breaches that they reported."""
    execute = ledger.connection.execute
    for statement in (
        "DELETE FROM delivery",
        "DELETE FROM event",
        "DROP TABLE pruned_total",
        "PRAGMA user_version = 1",
    ):
        execute(statement)
    (before,) = run_json(tmp_path, "verify")["not_compared"]
    open_ledger(tmp_path).connection.close()
    result = run_json(tmp_path, "verify")
    assert (result["findings"], result["not_compared"]) == ([], [before])
    assert "not compared: breaches" in run(tmp_path, "verify").stdout.replace("\n", " ")


def test_a_damaged_file_is_rejected(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"not a database" * 1_000)
    assert "next:" in run(tmp_path, "verify", exit_code=2).stderr


def test_a_ledger_can_be_read_after_its_server_stopped(tmp_path):
    ledger = open_ledger(tmp_path)
    ledger.settle([settlement(admit(ledger))])
    ledger.connection.close()
    assert not list(tmp_path.glob("*-wal"))
    assert run_json(tmp_path, "verify", "--max-open-s", "0")["num_rows"] == 1


AUTHENTICATED = NEW_ROW._replace(tenant="initech", is_authenticated=True)
TAMPERED_ACCOUNTS = {
    "usage": "UPDATE usage_day SET num_rows = num_rows + 1 WHERE tenant = 'globex'",
    "usage's schema": "UPDATE usage_day SET schema_id = 'other' WHERE tenant = 'initech'",
    "missing usage": "DELETE FROM usage_day WHERE tenant = 'initech'",
    "a reservation": "UPDATE request SET projected_nano_usd = projected_nano_usd - 1 WHERE reserved_tokens > 0",
    "a reservation's tenant": "UPDATE request SET tenant = 'globex' WHERE state = 'admitted' AND tenant = 'initech'",
    "a missing reservation": "UPDATE request SET reserved_tokens = NULL WHERE state = 'admitted'",
    "a reservation without an account": "UPDATE request SET reserved_tokens = 1 WHERE reserved_tokens IS NULL",
    "a negative reservation": "UPDATE request SET reserved_tokens = -1 WHERE state = 'admitted'",
    "a reserved sum": "UPDATE tenant_day SET reserved_nano_usd = reserved_nano_usd + 1",
    "a spent sum": "UPDATE tenant_day SET spent_nano_usd = spent_nano_usd + 1",
    "a safe sum": "UPDATE tenant_day SET safe_nano_usd = 10000001",
    "a missing day": "DELETE FROM tenant_day",
    "a negative value": "UPDATE tenant_second SET num_tokens = -1",
    "a negative count": "INSERT INTO refusal_day VALUES ('initech', 1, 'rate_limited', -1)",
}


@pytest.fixture
def with_accounts(ledger):
    """Also rows of a registered tenant, on the day after it was registered: one is settled, one open."""
    add_tenant(ledger.connection, "initech", TenantLimits(max_nano_usd_per_month=10_000_000))
    tomorrow_ns = time.time_ns() + DAY_NS
    ledger.settle([settlement(admit(ledger, AUTHENTICATED, tomorrow_ns), AUTHENTICATED)], tomorrow_ns + 1)
    admit(ledger, AUTHENTICATED, tomorrow_ns)
    return ledger


def test_accounts_agree_with_the_rows(with_accounts, tmp_path):
    assert run_json(tmp_path, "verify")["findings"] == []


@pytest.mark.parametrize("change", TAMPERED_ACCOUNTS.values(), ids=TAMPERED_ACCOUNTS)
def test_any_tampering_with_accounts_is_found(change, with_accounts, tmp_path):
    assert with_accounts.connection.execute(change).rowcount
    assert run_json(tmp_path, "verify", exit_code=1)["findings"]


def test_rows_of_the_time_before_a_tenant_was_registered_have_no_account(ledger, tmp_path):
    before = NEW_ROW._replace(tenant="initech")
    ledger.settle([settlement(admit(ledger, before), before)])
    admit(ledger, before)
    add_tenant(ledger.connection, "initech")
    assert run_json(tmp_path, "verify")["findings"] == []


def test_a_ledger_of_the_version_before_the_accounts_is_consistent(ledger, tmp_path):
    ledger.connection.execute("DROP VIEW reservation")
    for table in ("tenant", "tenant_day", "usage_day", "archive_file"):
        ledger.connection.execute(f"DROP TABLE {table}")
    ledger.connection.execute("PRAGMA user_version = 3")
    result = run_json(tmp_path, "verify")
    assert (result["findings"], len(result["not_compared"])) == ([], 1)
    open_ledger(tmp_path).connection.close()
    result = run_json(tmp_path, "verify")
    assert (result["findings"], result["not_compared"]) == ([], [])
