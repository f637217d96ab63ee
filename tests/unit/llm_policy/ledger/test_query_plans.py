"""What the ledger is asked each second must not take longer with each row that there ever was."""

import re
import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path

from llm_policy.ledger.alerts import WINDOW_NS
from llm_policy.ledger.engine_queue import MAX_OPEN_S
from llmstack.events import backlog
from llmstack.events.delivery_queue import DeliveryOutcome, DeliveryQueue, open_outbox
from llmstack.events.retention import prune_step
from llmstack.supervision.ledger_maintenance import LedgerMaintenance
from tests.ledgers import admit, open_ledger, settlement, sheds
from tests.manifests import manifest

GROWING = ("request", "event", "delivery")
# An index of open, waiting or given up rows alone has no others.
SCAN = re.compile(
    rf"SCAN (?:{'|'.join(GROWING)})(?! USING (?:COVERING )?INDEX (?:request_open|delivery_pending|delivery_failed))"
)


@contextmanager
def efficient(connection: sqlite3.Connection):
    """None of the statements meanwhile reads a whole table that grows."""
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


def test_the_parents_turn_reads_no_whole_table(tmp_path: Path):
    ledger = open_ledger(tmp_path)
    books = LedgerMaintenance(tmp_path, manifest())
    now_ns = time.time_ns()
    old_ns = now_ns - (MAX_OPEN_S + 1) * 10**9
    books.window(now_ns)
    books.record_engine_unhealthy(now_ns - WINDOW_NS, "gone")
    books.record_engine_unhealthy(now_ns - WINDOW_NS, "gone again")
    admit(ledger, now_ns=old_ns)
    with efficient(books._connection):
        books.record_dead_requests("boot-1", 1)
        books.close_unanswered(now_ns, "boot-1")
        books.close_due_windows(now_ns)
        books.window(now_ns)
        books.delete_old_canaries(now_ns)


def test_a_request_reads_no_whole_table(tmp_path: Path):
    ledger = open_ledger(tmp_path, max_queue_size=2)
    first = admit(ledger)
    with efficient(ledger.connection):
        second = admit(ledger)
        assert sheds(ledger) == [True]
        assert ledger.is_full()
        ledger.settle([settlement(first, flags=["cost_breach"]), settlement(second, flags=["cost_breach"])])
        ledger.close_unanswered(0)


def test_delivery_reads_no_whole_table(tmp_path: Path):
    LedgerMaintenance(tmp_path, manifest()).record_engine_unhealthy(1, "gone")
    connection = open_outbox(tmp_path)
    line = DeliveryQueue(connection, "readiness")
    with efficient(connection):
        line.head()
        line.is_disabled()
        line.fail_pending()
        backlog._read_endpoint(connection, "readiness", True, 1)
        line.record(line.head(), DeliveryOutcome("delivered", 1, 1))
        assert prune_step(connection, 2) == 1
