"""Queries that run each second or per request must not get slower as the tables grow."""

import re
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path

from llm_policy.ledger.alerts import WINDOW_NS
from llm_policy.ledger.engine_queue import MAX_OPEN_S
from llm_policy.ledger.row_record import RowRecord
from llmstack.events import backlog
from llmstack.events.delivery_queue import DeliveryOutcome, DeliveryQueue, open_outbox
from llmstack.events.retention import prune_step
from llmstack.supervision.ledger_maintenance import LedgerMaintenance
from tests.ledgers import NEW_ROW, admit, open_ledger, rejection, settlement, sheds
from tests.manifests import manifest

CANARY = NEW_ROW._replace(is_canary=True)
GROWING = ("request", "event", "delivery", "rejection_count")
# Partial indexes of open, pending or failed rows stay small, so scanning them is fine.
SCAN = re.compile(
    rf"SCAN (?:{'|'.join(GROWING)})(?! USING (?:COVERING )?INDEX (?:request_open|delivery_pending|delivery_failed))"
)


@contextmanager
def no_table_scans(connection: sqlite3.Connection):
    """Check that no statement in the block scans a growing table."""
    statements: set[str] = set()
    connection.set_trace_callback(statements.add)
    yield
    connection.set_trace_callback(None)
    plans = {
        statement: [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        for statement in statements
        if re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT)", statement)
    }
    assert plans
    assert {statement: plan for statement, plan in plans.items() if SCAN.search("; ".join(plan))} == {}


def test_ledger_maintenance_scans_no_growing_table(tmp_path: Path):
    ledger = open_ledger(tmp_path)
    maintenance = LedgerMaintenance(tmp_path, manifest())
    now_ns = time.time_ns()
    old_ns = now_ns - (MAX_OPEN_S + 1) * 10**9
    maintenance.window(now_ns)
    maintenance.record_engine_unhealthy(now_ns - WINDOW_NS, "gone")
    maintenance.record_engine_unhealthy(now_ns - WINDOW_NS, "gone again")
    admit(ledger, now_ns=old_ns)
    with no_table_scans(maintenance._connection):
        maintenance.record_dead_requests("boot-1", 1)
        maintenance.close_unanswered(now_ns, "boot-1")
        maintenance.close_due_windows(now_ns)
        maintenance.window(now_ns)
        maintenance.delete_old_canaries(now_ns)
        maintenance.keep_budget(now_ns, 1)


def test_a_request_scans_no_growing_table(tmp_path: Path):
    ledger = open_ledger(tmp_path, max_queue_size=2)
    first = admit(ledger)
    with no_table_scans(ledger.connection):
        second = admit(ledger)
        assert sheds(ledger) == [True]
        assert ledger.refusal("acme", False)
        ledger.record([[RowRecord(code="missing_header")] * 9])
        ledger.reject([rejection(admit(ledger, CANARY), "schema_invalid", RowRecord())])
        ledger.settle([settlement(first, flags=["cost_breach"]), settlement(second, flags=["cost_breach"])])
        ledger.close_unanswered(0)


def test_webhook_delivery_scans_no_growing_table(tmp_path: Path):
    LedgerMaintenance(tmp_path, manifest()).record_engine_unhealthy(1, "gone")
    connection = open_outbox(tmp_path)
    queue = DeliveryQueue(connection, "readiness")
    with no_table_scans(connection):
        queue.head()
        queue.is_disabled()
        queue.fail_pending()
        backlog._read_endpoint(connection, "readiness", True, 1)
        queue.record(queue.head(), DeliveryOutcome("delivered", 1, 1))
        assert prune_step(connection, 2) == 1
