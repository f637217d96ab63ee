"""Concurrent writers of one ledger, some of them killed during a write."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing

from llm_policy.ledger.database import FILE_NAME, open_read_only
from llmstack.ledger.verification import verify
from llmstack.ledger.write_bench import measure_writes
from tests.ledgers import admit, events, open_ledger, rows, settlement, states

WRITE_FOREVER = """
import sys
from pathlib import Path
from llmstack.ledger.write_bench import write_patiently
from tests.ledgers import admit, open_ledger, settlement
ledger = open_ledger(Path(sys.argv[1]), max_queue_size=1000000)
while True:
    row = write_patiently(admit, ledger)
    write_patiently(ledger.settle, [settlement(row, flags=["cost_breach", "schema_violation"])])
    print("settled", flush=True)
"""


def findings(state_dir):
    with closing(open_read_only(state_dir / FILE_NAME)) as connection:
        return verify(connection, time.time_ns(), max_open_s=600).discrepancies


def test_two_concurrent_writers_leave_a_consistent_ledger(tmp_path):
    measure_writes(tmp_path, 500, num_writers=2)
    ledger = open_ledger(tmp_path)
    assert states(ledger) == {"settled": 3_000}  # two thirds of them of tenants with keys
    assert findings(tmp_path) == []


def test_a_process_killed_at_any_moment_leaves_a_consistent_ledger(tmp_path):
    random.seed(4711)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["python_models", "tools", "."])}
    for _ in range(5):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, env=environment
            )
            for _ in range(2)
        ]
        for writer in writers:
            assert [writer.stdout.readline() for _ in range(3)] == [b"settled\n"] * 3
        time.sleep(random.uniform(0, 0.05))  # so that they die at different points of a transaction
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
        assert findings(tmp_path) == []
    ledger = open_ledger(tmp_path, boot_id="boot-2", max_queue_size=1_000_000)
    num_settled = states(ledger)["settled"]
    assert num_settled >= 5 * 2 * 3
    assert states(ledger)["admitted"] <= 10
    ledger.close_unanswered(time.time_ns())
    ledger.settle([settlement(admit(ledger), flags=["cost_breach"])])
    assert findings(tmp_path) == []
    assert {event["phase"] for event in events(ledger) if event["rule"] == "cost"} == {"first"}
    assert len(rows(ledger)) == sum(states(ledger).values())
