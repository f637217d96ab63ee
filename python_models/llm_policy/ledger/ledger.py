"""The ledger: one row for each row of a request that reached preprocess, from its admission to its end.

    admitted ──► settled     answered: actual tokens and cost
       │    └──► refused     a fault of ours, or its guide was refused after a wait; costs nothing
       ├───────► cancelled   this boot lives, but no answer came within the bound; costs its prompt
       └───────► lost        the boot that admitted it is over; costs its prompt
    refused                  at once; costs nothing

An answer that comes after its row was given up settles it all the same. Whatever becomes of a row changes the totals
that the metrics show (`metric_total`) and records its breaches (`alerts`) in the same transaction.

Every method is one transaction, or none, and raises sqlite3.Error when it could not be committed: nothing has changed
then. Not safe for several threads at once.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import NamedTuple

from llm_policy.errors import Code
from llm_policy.ledger import alerts, metric_total
from llm_policy.ledger.alerts import Breach
from llm_policy.ledger.database import transaction
from llm_policy.ledger.engine_queue import MAX_OPEN_S, EngineQueue
from llm_policy.ledger.metric_total import Increments
from llm_policy.ledger.tables import ADMITTED, CANCELLED, LOST, REFUSED, SETTLED
from llm_policy.release.manifest import Manifest

_MAX_SWEPT_AT_ONCE = 1_000
_MAX_FORGOTTEN_AT_ONCE = 100  # requests wait for the write lock meanwhile

RULE_OF_FLAG = {
    "queue_delay_breach": alerts.QUEUE_DELAY,
    "cost_breach": alerts.COST,
    "schema_violation": alerts.SCHEMA_VIOLATION,
}

_INSERT = (
    "INSERT INTO request (request_id, tenant, task, schema_id, engine_hash, boot_id, row_number, canary, "
    "num_prompt_tokens, projected_nano_usd, actual_nano_usd, state, code, admitted_ns, closed_ns) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SETTLE = (
    "UPDATE request SET state = 'settled', schema_id = ?, num_completion_tokens = ?, actual_nano_usd = ?, "
    "queue_delay_us = ?, flags = ?, closed_ns = ? WHERE id = ? AND state = 'admitted'"
)
_SETTLE_LATE = (
    "UPDATE request SET state = 'settled', swept_as = state, schema_id = ?, num_completion_tokens = ?, "
    "actual_nano_usd = ?, queue_delay_us = ?, flags = ?, closed_ns = ? WHERE id = ?"
)
# Asked each second: of open rows alone, however many there are of others.
UNANSWERED = (
    "SELECT id, boot_id, canary, num_prompt_tokens, actual_nano_usd, task FROM request INDEXED BY request_open "
    "WHERE state = 'admitted' AND (boot_id <> ? OR admitted_ns < ?) LIMIT ?"
)
# The newest row stays: SQLite would give its id to the next one.
_OLD_CANARIES = (
    "SELECT id FROM request INDEXED BY request_canary WHERE canary = 1 AND admitted_ns < ? AND state <> 'admitted' "
    "AND id < (SELECT max(id) FROM request) LIMIT ?"
)
_REFUSE = (
    "UPDATE request SET state = 'refused', code = ?, actual_nano_usd = 0, closed_ns = ? "
    "WHERE id = ? AND state = 'admitted'"
)


class Entry(NamedTuple):
    """One row as preprocess knows it; a `code` refuses it, and what was not known yet is empty."""

    request_id: str = ""
    tenant: str = ""
    task: str = ""
    schema_id: str = ""
    is_canary: bool = False
    num_prompt_tokens: int = 0
    projected_nano_usd: int = 0
    prompt_nano_usd: int = 0
    code: str = ""


class Entered(NamedTuple):
    """What became of one request: the ids of its rows, and whether it was shed instead of admitted."""

    ids: list[int]
    is_shed: bool = False


class Settlement(NamedTuple):
    """One answered row as postprocess knows it."""

    ledger_id: int
    request_id: str
    tenant: str
    task: str
    schema_id: str
    is_canary: bool
    num_prompt_tokens: int
    num_completion_tokens: int
    actual_nano_usd: int
    queue_delay_us: int
    flags: Sequence[str]


class OpenRow(NamedTuple):
    """An admitted row that is refused after all."""

    ledger_id: int
    task: str
    is_canary: bool


class _Unanswered(NamedTuple):
    ledger_id: int
    boot_id: str
    is_canary: bool
    num_prompt_tokens: int
    charged_nano_usd: int
    task: str


class Ledger:
    """The ledger as one process writes it during one boot of the server."""

    def __init__(self, connection: sqlite3.Connection, manifest: Manifest, boot_id: str) -> None:
        self.connection = connection
        self._boot_id = boot_id
        self._engine_hash = manifest.engine.hash
        self._quantisation = manifest.engine.quantisation
        self._queue = EngineQueue(connection, boot_id, manifest.engine.max_queue_size)
        self._thresholds = {
            alerts.QUEUE_DELAY: manifest.thresholds.max_queue_delay_us,
            alerts.COST: manifest.thresholds.max_cost_nano_usd,
            alerts.SCHEMA_VIOLATION: 0,
        }
        self._was_full = False

    def is_full(self) -> bool:
        """Whether a request would be shed. Costs nothing unless the last one was."""
        if self._was_full:
            self._was_full = self._queue.room(time.time_ns()) <= 0
        return self._was_full

    def enter(self, requests: Sequence[Sequence[Entry]], now_ns: int | None = None) -> list[Entered]:
        """Write the rows of each request, those that are refused too."""
        now_ns = time.time_ns() if now_ns is None else now_ns
        increments: Increments = {}
        with transaction(self.connection):
            is_admission = any(not rows[0].code for rows in requests)
            room = self._queue.room(now_ns) if is_admission else 0
            entered = []
            for rows in requests:
                is_open = not rows[0].code
                is_shed = is_open and room <= 0 and not rows[0].is_canary
                if is_shed:
                    rows = [row._replace(code=Code.OVERLOADED.value) for row in rows]
                else:
                    room -= is_open
                entered.append(Entered(self._insert(rows, now_ns, increments), is_shed))
            metric_total.add(self.connection, increments)
        if is_admission:
            self._was_full = room <= 0
        return entered

    def settle(self, settlements: Sequence[Settlement], now_ns: int | None = None) -> list[bool]:
        """Close answered rows; False for one that is not there or was closed by an answer or a refusal before."""
        now_ns = time.time_ns() if now_ns is None else now_ns
        increments: Increments = {}
        with transaction(self.connection):
            found = []
            for row in settlements:
                in_time = self._execute_settle(_SETTLE, row, now_ns) == 1
                is_found = in_time or self._settle_late(row, now_ns, increments)
                found.append(is_found)
                if in_time:
                    self._count_end(increments, row.task, SETTLED, row.is_canary)
                    self._count_use(increments, row, row.num_prompt_tokens, row.actual_nano_usd)
                if is_found and row.flags and not row.is_canary:
                    self._record_flags(row, increments, now_ns)
            metric_total.add(self.connection, increments)
        return found

    def refuse(self, rows: Sequence[OpenRow], code: str, now_ns: int | None = None) -> None:
        """Close admitted rows that can't be served after all; the client pays nothing."""
        now_ns = time.time_ns() if now_ns is None else now_ns
        increments: Increments = {}
        with transaction(self.connection):
            for row in rows:
                if self.connection.execute(_REFUSE, (code, now_ns, row.ledger_id)).rowcount:
                    self._count_end(increments, row.task, REFUSED, row.is_canary, code)
            metric_total.add(self.connection, increments)

    def close_unanswered(self, now_ns: int, max_open_s: float = MAX_OPEN_S) -> int:
        """Give up rows whose answer will not come, charged with their prompt; how many. For the parent, each second.

        `lost` are those of another boot: call it once that server is gone. `cancelled` are those of this boot that
        have been open for more than `max_open_s`.
        """
        num_closed = 0
        while rows := self._unanswered(now_ns - int(max_open_s * 1e9)):
            self._sweep(rows, now_ns)
            num_closed += len(rows)
        return num_closed

    def forget_canaries(self, before_ns: int) -> int:
        """Delete some of the canary's rows from before then, which are in no total; how many. For the parent."""
        rows = self.connection.execute(_OLD_CANARIES, (before_ns, _MAX_FORGOTTEN_AT_ONCE)).fetchall()
        if rows:
            with transaction(self.connection):
                self.connection.executemany("DELETE FROM request WHERE id = ?", rows)
        return len(rows)

    def set_unanswered(self, num_requests: int, now_ns: int | None = None) -> None:
        """Say how many requests admitted in this boot have died in the engine so far, so that they fill no queue."""
        if num_requests != self._queue.num_noted():
            with transaction(self.connection):
                self._queue.note_dead(num_requests, time.time_ns() if now_ns is None else now_ns)

    def _insert(self, rows: Sequence[Entry], now_ns: int, increments: Increments) -> list[int]:
        ids = []
        for number, row in enumerate(rows):
            state, charged, closed_ns = (REFUSED, 0, now_ns) if row.code else (ADMITTED, row.prompt_nano_usd, None)
            cursor = self.connection.execute(
                _INSERT,
                (
                    *(row.request_id, row.tenant, row.task, row.schema_id, self._engine_hash, self._boot_id, number),
                    *(row.is_canary, row.num_prompt_tokens, row.projected_nano_usd, charged),
                    *(state, row.code, now_ns, closed_ns),
                ),
            )
            ids.append(int(cursor.lastrowid or 0))
            if row.code:
                self._count_end(increments, row.task, REFUSED, row.is_canary, row.code)
        return ids

    def _execute_settle(self, statement: str, row: Settlement, now_ns: int) -> int:
        return self.connection.execute(
            statement,
            (
                *(row.schema_id, row.num_completion_tokens, row.actual_nano_usd, row.queue_delay_us),
                *(",".join(row.flags), now_ns, row.ledger_id),
            ),
        ).rowcount

    def _settle_late(self, row: Settlement, now_ns: int, increments: Increments) -> bool:
        """Its prompt has been counted and charged already; what the answer adds has not."""
        swept = self.connection.execute(
            "SELECT state, actual_nano_usd FROM request WHERE id = ?", (row.ledger_id,)
        ).fetchone()
        if swept is None or swept[0] not in (CANCELLED, LOST):
            return False
        self._execute_settle(_SETTLE_LATE, row, now_ns)
        self._count_end(increments, row.task, metric_total.LATE, row.is_canary)
        self._count_use(increments, row, 0, row.actual_nano_usd - swept[1])
        return True

    def _record_flags(self, row: Settlement, increments: Increments, now_ns: int) -> None:
        observed = {alerts.QUEUE_DELAY: row.queue_delay_us, alerts.COST: row.actual_nano_usd}
        for flag in row.flags:
            rule = RULE_OF_FLAG.get(flag)
            if rule is None:
                continue
            if rule == alerts.SCHEMA_VIOLATION:
                metric_total.count(increments, metric_total.VIOLATIONS)
            alerts.record_breach(
                self.connection,
                rule,
                Breach(observed.get(rule, 1), row.request_id, row.tenant, row.ledger_id),
                threshold=self._thresholds[rule],
                engine_hash=self._engine_hash,
                quantisation=self._quantisation,
                now_ns=now_ns,
            )

    def _count_end(self, increments: Increments, task: str, outcome: str, is_canary: bool, code: str = "") -> None:
        if is_canary:
            return
        metric_total.count(increments, metric_total.REQUESTS, f"{task or metric_total.NO_TASK},{outcome}")
        if code:
            metric_total.count(increments, metric_total.REJECTED, code)

    def _count_use(self, increments: Increments, row: Settlement, num_prompt_tokens: int, nano_usd: int) -> None:
        if row.is_canary:
            return
        metric_total.count(increments, metric_total.TOKENS_IN, by=num_prompt_tokens)
        metric_total.count(increments, metric_total.TOKENS_OUT, by=row.num_completion_tokens)
        metric_total.count(increments, metric_total.COST, by=nano_usd)

    def _unanswered(self, before_ns: int) -> list[_Unanswered]:
        rows = self.connection.execute(UNANSWERED, (self._boot_id, before_ns, _MAX_SWEPT_AT_ONCE))
        return [_Unanswered(*row) for row in rows]

    def _sweep(self, rows: Sequence[_Unanswered], now_ns: int) -> None:
        increments: Increments = {}
        with transaction(self.connection):
            for row in rows:
                state = CANCELLED if row.boot_id == self._boot_id else LOST
                cursor = self.connection.execute(
                    "UPDATE request SET state = ?, closed_ns = ? WHERE id = ? AND state = 'admitted'",
                    (state, now_ns, row.ledger_id),
                )
                if not cursor.rowcount:
                    continue  # its answer came just now
                self._count_end(increments, row.task, state, row.is_canary)
                if not row.is_canary:
                    metric_total.count(increments, metric_total.TOKENS_IN, by=row.num_prompt_tokens)
                    metric_total.count(increments, metric_total.COST, by=row.charged_nano_usd)
            metric_total.add(self.connection, increments)
