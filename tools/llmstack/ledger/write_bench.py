"""What the ledger costs a request: rows written by two processes at once, as preprocess and postprocess stubs do."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from llm_policy.ledger.database import FILE_NAME, checkpoint, open_database, transaction
from llm_policy.ledger.ledger import Entry, Ledger, Settlement
from llm_policy.release.manifest import TASKS, parse_manifest

_ENTRY = Entry("request-0123456789", "acme", "judge", "verdict", False, 512, 128_000, 51_200)
_HASH = "sha256:" + "0" * 64
_MANIFEST = {
    "engine": {"hash": _HASH, "quantisation": "w4a8", "model": "bench", "max_queue_size": 1_000_000},
    "tokenizer": {"info_hash": _HASH},
    "prices": {"input_usd_per_million": 0.1, "output_usd_per_million": 0.3},
    "tasks": {task: {"temperature": 0.0} for task in TASKS},
}
_FLAGS: dict[str, list[str]] = {"settle": [], "settle with a breach": ["queue_delay_breach"]}
_FILL = """
WITH RECURSIVE counted (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM counted WHERE number < :num)
INSERT INTO request (request_id, tenant, task, schema_id, engine_hash, boot_id, row_number, canary, num_prompt_tokens,
    num_completion_tokens, projected_nano_usd, actual_nano_usd, queue_delay_us, state, admitted_ns, closed_ns)
SELECT printf('request-%010d', number), :tenant, :task, :schema_id, :hash, 'earlier', 0, 0, :num_prompt_tokens,
    64, :projected_nano_usd, 70400, 900, 'settled', :now_ns - (:num - number) * 1000000,
    :now_ns - (:num - number) * 1000000
FROM counted WHERE :num > 0
"""
CALLS = ("enter", *_FLAGS)


class WriteCost(NamedTuple):
    """Microseconds of one transaction of one row."""

    num_writers: int
    call: str
    median_us: float
    p99_us: float


def fill(directory: Path, num_rows: int) -> None:
    """Make a ledger with so many settled rows there.

    Raises:
        OSError, sqlite3.Error: the directory can't be written.
    """
    with closing(open_database(directory / FILE_NAME)) as connection:
        with transaction(connection):
            connection.execute(_FILL, {**_ENTRY._asdict(), "hash": _HASH, "now_ns": time.time_ns(), "num": num_rows})
        checkpoint(connection)


def measure(directory: Path, num_writes: int, num_writers: int) -> list[WriteCost]:
    """Write so many rows in each of `num_writers` processes at once into the ledger there; one cost for each of CALLS.

    Raises:
        OSError, sqlite3.Error: the directory can't be written.
        EOFError: a process failed; it has said why on standard error.
    """
    with closing(open_database(directory / FILE_NAME)):  # stays open, so that no writer closes the last connection
        context = multiprocessing.get_context("spawn")
        receivers = []
        for _ in range(num_writers):
            receiver, sender = context.Pipe(duplex=False)
            context.Process(target=_write, args=(directory, num_writes, sender), daemon=True).start()
            sender.close()
            receivers.append(receiver)
        taken: list[dict[str, list[int]]] = [receiver.recv() for receiver in receivers]
    together = {call: sorted(ns for times in taken for ns in times[call]) for call in CALLS}
    return [
        WriteCost(num_writers, call, statistics.median(ns) / 1_000, ns[len(ns) * 99 // 100] / 1_000)
        for call, ns in together.items()
    ]


def _write(directory: Path, num_writes: int, sender: Connection) -> None:
    connection = open_database(directory / FILE_NAME, busy_timeout_ms=0)
    ledger = Ledger(connection, parse_manifest(json.dumps(_MANIFEST)), "bench")
    times: dict[str, list[int]] = {call: [] for call in CALLS}
    for number in range(num_writes):
        call = "settle" if number % 10 else "settle with a breach"
        began_ns = time.perf_counter_ns()
        (((row_id,), _),) = ledger.enter([[_ENTRY]])
        entered_ns = time.perf_counter_ns()
        row = Settlement(row_id, *_ENTRY[:5], 512, 64, 70_400, 900, _FLAGS[call])
        settling_ns = time.perf_counter_ns()
        ledger.settle([row])
        times[call].append(time.perf_counter_ns() - settling_ns)
        times["enter"].append(entered_ns - began_ns)
    sender.send(times)
