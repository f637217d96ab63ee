"""Measures ledger writes of one and of two concurrent processes, as the preprocess and postprocess stubs write.

A row of a tenant with a key, budgets and rates is measured beside one of a tenant that is only a label, and one of a
tenant that has spent most of a budget: its sums are computed for each row.
"""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, TypeVar

from llm_policy.api_key import create_key, digest_of
from llm_policy.ledger.budget_window import day_of, windows_of
from llm_policy.ledger.database import FILE_NAME, checkpoint, is_locked, open_database, transaction
from llm_policy.ledger.ledger import Ledger
from llm_policy.ledger.row_record import RowRecord
from llm_policy.ledger.tenant import TenantLimits
from llm_policy.release.manifest import TASKS, parse_manifest

_Rows = TypeVar("_Rows")
_Result = TypeVar("_Result")

_ROW = RowRecord(
    request_id="request-0123456789",
    tenant="acme",
    task="judge",
    schema_id="verdict",
    num_prompt_tokens=512,
    prompt_nano_usd=51_200,
    projected_nano_usd=128_000,
)
_HASH = "sha256:" + "0" * 64
_MANIFEST = {
    "engine": {"hash": _HASH, "quantisation": "w4a8", "model": "bench", "max_queue_size": 1_000_000},
    "tokenizer": {"info_hash": _HASH},
    "prices": {"input_usd_per_million": 0.1, "output_usd_per_million": 0.3},
    "tasks": {task: {"temperature": 0.0} for task in TASKS},
}
_FLAGS: dict[str, tuple[str, ...]] = {"settle": (), "settle with a breach": ("queue_delay_breach",)}
_FILL = """
WITH RECURSIVE counted (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM counted WHERE number < :num)
INSERT INTO request (request_id, tenant, task, schema_id, engine_hash, boot_id, row_number, canary, num_prompt_tokens,
    num_completion_tokens, projected_nano_usd, actual_nano_usd, queue_delay_us, state, admitted_ns, closed_ns)
SELECT printf('request-%010d', number), :tenant, :task, :schema_id, :hash, 'earlier', 0, 0, :num_prompt_tokens,
    64, :projected_nano_usd, 70400, 900, 'settled', :now_ns - (:num - number) * 1000000,
    :now_ns - (:num - number) * 1000000
FROM counted WHERE :num > 0
"""
_FIND, _ENTER_LIMITED, _SETTLE_LIMITED = "find the tenant of a key", "enter with limits", "settle with limits"
_ENTER_NEAR, _SETTLE_NEAR = "enter near a budget", "settle near a budget"
CALLS = ("enter", *_FLAGS, _FIND, _ENTER_LIMITED, _SETTLE_LIMITED, _ENTER_NEAR, _SETTLE_NEAR)
_LIMITED, _NEAR = "limited", "near"
_MOST_NANO_USD = 9 * 10**17  # of a month's budget of 10**18
_LIMITS = TenantLimits(
    max_nano_usd_per_day=10**18,
    max_nano_usd_per_month=10**18,
    max_tokens_per_minute=10**12,
    max_requests_per_minute=10**9,
    max_concurrent_requests=10**6,
    max_adhoc_guides_per_minute=10**6,
)


_ADD_DAY = "INSERT OR IGNORE INTO tenant_day (tenant, day, spent_nano_usd, reserved_nano_usd) VALUES (?, ?, ?, ?)"


class WriteCost(NamedTuple):
    """The duration of one transaction of one row, in microseconds."""

    num_writers: int
    call: str
    median_us: float
    p99_us: float


def run_write_bench(parent: Path, num_rows: int, num_writes: int) -> list[WriteCost]:
    """Measure on a temporary ledger of `num_rows` rows under `parent`, with one writer and with two.

    Raises:
        OSError, sqlite3.Error: the directory can't be written.
        EOFError: a writer failed; its error is on standard error.
    """
    with tempfile.TemporaryDirectory(dir=parent, prefix="ledger-bench-") as name:
        directory = Path(name)
        fill_ledger(directory, num_rows)
        return [cost for num_writers in (1, 2) for cost in measure_writes(directory, num_writes, num_writers)]


def fill_ledger(directory: Path, num_rows: int) -> None:
    """Create a ledger with `num_rows` settled rows in `directory`.

    Raises:
        OSError, sqlite3.Error: the directory can't be written.
    """
    with closing(open_database(directory / FILE_NAME)) as connection:
        with transaction(connection):
            connection.execute(_FILL, {**_ROW._asdict(), "hash": _HASH, "now_ns": time.time_ns(), "num": num_rows})
        checkpoint(connection)


def measure_writes(directory: Path, num_writes: int, num_writers: int) -> list[WriteCost]:
    """Write `num_writes` rows from each of `num_writers` concurrent processes; one cost for each of CALLS.

    Raises:
        OSError, sqlite3.Error: the directory can't be written.
        EOFError: a writer failed; its error is on standard error.
    """
    with closing(open_database(directory / FILE_NAME)) as connection:  # stays open: the last close would checkpoint
        key_digest = _add_tenant(connection, _LIMITED, 0)
        _add_tenant(connection, _NEAR, _MOST_NANO_USD)
        context = multiprocessing.get_context("spawn")
        receivers = []
        for _ in range(num_writers):
            receiver, sender = context.Pipe(duplex=False)
            context.Process(target=_write, args=(directory, key_digest, num_writes, sender), daemon=True).start()
            sender.close()
            receivers.append(receiver)
        durations: list[dict[str, list[int]]] = [receiver.recv() for receiver in receivers]
    all_ns = {call: sorted(ns for times in durations for ns in times[call]) for call in CALLS}
    return [
        WriteCost(num_writers, call, statistics.median(ns) / 1_000, ns[len(ns) * 99 // 100] / 1_000)
        for call, ns in all_ns.items()
    ]


def _write(directory: Path, key_digest: bytes, num_writes: int, sender: Connection) -> None:
    connection = open_database(directory / FILE_NAME, busy_timeout_ms=0)
    ledger = Ledger(connection, parse_manifest(json.dumps(_MANIFEST)), "bench")
    times: dict[str, list[int]] = {call: [] for call in CALLS}
    for number in range(num_writes):
        call = "settle" if number % 10 else "settle with a breach"
        _write_row(ledger, _ROW, times["enter"], times[call], _FLAGS[call])
        began_ns = time.perf_counter_ns()
        tenant = ledger.find_tenant(key_digest)
        times[_FIND].append(time.perf_counter_ns() - began_ns)
        if tenant is not None:
            limited = _ROW._replace(tenant=tenant.name, is_authenticated=True, max_completion_tokens=256)
            _write_row(ledger, limited, times[_ENTER_LIMITED], times[_SETTLE_LIMITED])
            _write_row(ledger, limited._replace(tenant=_NEAR), times[_ENTER_NEAR], times[_SETTLE_NEAR])
    sender.send(times)


def _write_row(
    ledger: Ledger, row: RowRecord, enter_ns: list[int], settle_ns: list[int], flags: tuple[str, ...] = ()
) -> None:
    began_ns = time.perf_counter_ns()
    ((row,),) = write_patiently(ledger.record, [[row]])
    enter_ns.append(time.perf_counter_ns() - began_ns)
    row = row._replace(num_completion_tokens=64, actual_nano_usd=70_400, queue_delay_us=900, flags=flags)
    began_ns = time.perf_counter_ns()
    write_patiently(ledger.settle, [row])
    settle_ns.append(time.perf_counter_ns() - began_ns)


def write_patiently(write: Callable[[_Rows], _Result], rows: _Rows) -> _Result:
    """A request gives up after two seconds; a writer here waits for one that the machine lets run only later."""
    while True:
        try:
            return write(rows)
        except sqlite3.OperationalError as error:  # noqa: PERF203
            if not is_locked(error):
                raise


def _add_tenant(connection: sqlite3.Connection, name: str, spent_nano_usd: int) -> bytes:
    """Register a tenant that no limit stops, with an account of each day of the month; returns its key's digest.

    It has spent this on the first day of the month.
    """
    digest, now_ns = digest_of(create_key()), time.time_ns()
    month = windows_of(day_of(now_ns))[1]
    days = [(name, day, 0 if day > month.first else spent_nano_usd, 0) for day in range(month.first, month.end)]
    with transaction(connection):
        tenant = (name, now_ns, _LIMITS.as_text())
        connection.execute("INSERT OR IGNORE INTO tenant (name, created_ns, limits) VALUES (?, ?, ?)", tenant)
        key = (digest, name, now_ns)
        connection.execute("INSERT INTO tenant_key (digest, tenant, created_ns) VALUES (?, ?, ?)", key)
        connection.executemany(_ADD_DAY, days)
    return digest
