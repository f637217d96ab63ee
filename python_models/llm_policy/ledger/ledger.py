"""The ledger: one row for each row of a request that reached preprocess, from admission to its final state.

    admitted ──► settled     answered: actual tokens and cost
       │    └──► refused     internal error, or its guide was rejected after compiling; costs nothing
       ├───────► cancelled   same server start, but no answer came within the time limit; costs its prompt and what
       │                     the engine decoded, as far as it is known. With a code: the engine ended it at its limit
       └───────► lost        the server start that admitted it has ended; costs the same
    refused                  rejected immediately; costs nothing

Refused rows of senders that can't name the engine or their tenant are sampled: most are only counted, and have no row
(`rejection_count`). An answer that comes after its row was cancelled or lost still settles it. Every change of a row
updates the metric totals (`metric_total`) and records its breaches (`alerts`) in the same transaction.

Every method is at most one transaction. It raises sqlite3.Error if the transaction could not be committed; then nothing
has changed. Not thread-safe.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from llm_policy.errors import Code
from llm_policy.ledger import alerts, metric_total
from llm_policy.ledger.alerts import AlertRule, Breach
from llm_policy.ledger.database import transaction
from llm_policy.ledger.engine_queue import MAX_OPEN_S, EngineQueue, Waiting
from llm_policy.ledger.engine_usage import read_usage
from llm_policy.ledger.metric_total import Increments
from llm_policy.ledger.rejection_count import RejectionCounts
from llm_policy.ledger.row_record import RowRecord, rejected
from llm_policy.ledger.tables import ADMITTED, CANCELLED, LOST, REFUSED, SETTLED
from llm_policy.release.manifest import Manifest

_CLOSE_BATCH_ROWS = 1_000
_DELETE_BATCH_ROWS = 100  # requests wait for the write lock meanwhile
_MAX_OVERLOADING_TENANTS = 1_000  # remembered; more only cost their requests' work
# Late rejections that are always stored: the engine may have worked for them.
_KEPT_CODES = frozenset((Code.INTERNAL.value, Code.LEDGER_UNAVAILABLE.value))

RULE_OF_FLAG = {
    "queue_delay_breach": alerts.QUEUE_DELAY,
    "cost_breach": alerts.COST,
    "schema_violation": alerts.SCHEMA_VIOLATION,
}

# Columns that hold a field of the record, and that field. Statements take values by position: binding 15 values by name
# takes twice as long.
_INSERTED_FIELDS = {
    "request_id": "request_id",
    "tenant": "tenant",
    "task": "task",
    "schema_id": "schema_id",
    "row_number": "row_number",
    "canary": "is_canary",
    "num_prompt_tokens": "num_prompt_tokens",
    "projected_nano_usd": "projected_nano_usd",
    "code": "code",
}
_SETTLED_FIELDS = {
    "schema_id": "schema_id",
    "num_completion_tokens": "num_completion_tokens",
    "actual_nano_usd": "actual_nano_usd",
    "queue_delay_us": "queue_delay_us",
}
_inserted_values = attrgetter(*_INSERTED_FIELDS.values())
_settled_values = attrgetter(*_SETTLED_FIELDS.values())
_INSERT = (
    f"INSERT INTO request ({', '.join(_INSERTED_FIELDS)}, "  # noqa: S608 - constants
    f"engine_hash, boot_id, actual_nano_usd, state, admitted_ns, closed_ns) "
    f"VALUES ({'?, ' * len(_INSERTED_FIELDS)}?, ?, ?, ?, ?, ?)"
)
_SET_SETTLED = f"{', '.join(f'{column} = ?' for column in _SETTLED_FIELDS)}, flags = ?, closed_ns = ?"
_SETTLE = f"UPDATE request SET state = 'settled', {_SET_SETTLED} WHERE id = ? AND state = 'admitted'"  # noqa: S608
_CUT = f"UPDATE request SET state = 'cancelled', code = ?, {_SET_SETTLED} WHERE id = ? AND state = 'admitted'"  # noqa: S608
_SETTLE_LATE = f"UPDATE request SET state = 'settled', swept_as = state, {_SET_SETTLED} WHERE id = ?"  # noqa: S608
# Runs each second; the partial index covers open rows only, so the cost does not grow with the table.
UNANSWERED = (
    "SELECT id, boot_id, canary, num_prompt_tokens, actual_nano_usd, projected_nano_usd, task "
    "FROM request INDEXED BY request_open "
    "WHERE state = 'admitted' AND (boot_id <> ? OR admitted_ns < ?) LIMIT ?"
)
# The newest row stays, because SQLite would reuse its id.
_OLD_CANARIES = (
    "SELECT id FROM request INDEXED BY request_canary WHERE canary = 1 AND admitted_ns < ? AND state <> 'admitted' "
    "AND id < (SELECT max(id) FROM request) LIMIT ?"
)
_REJECT = (
    "UPDATE request SET state = 'refused', code = ?, actual_nano_usd = 0, closed_ns = ? "
    "WHERE id = ? AND state = 'admitted'"
)


class _UnansweredRow(NamedTuple):
    ledger_id: int
    boot_id: str
    is_canary: bool
    num_prompt_tokens: int
    charged_nano_usd: int
    projected_nano_usd: int
    task: str


class Ledger:
    """The ledger as one process writes it during one start ("boot") of the server."""

    def __init__(self, connection: sqlite3.Connection, manifest: Manifest, boot_id: str) -> None:
        self.connection = connection
        self._boot_id = boot_id
        self._engine_hash = manifest.engine.hash
        self._price = manifest.prices.per_token.output_nano_usd
        self._queue = EngineQueue(connection, boot_id, manifest)
        thresholds = {
            alerts.QUEUE_DELAY: manifest.thresholds.max_queue_delay_us,
            alerts.COST: manifest.thresholds.max_cost_nano_usd,
            alerts.SCHEMA_VIOLATION: 0,
        }
        self._alert_rules = {
            name: AlertRule(name, threshold, manifest.engine.hash, manifest.engine.quantisation)
            for name, threshold in thresholds.items()
        }
        self._overloading: set[str] = set()  # tenants whose last request was shed
        self._surplus: list[RowRecord] = []  # rejected rows that `reject` deletes once newer rows exist

    def overload(self, tenant: str) -> str:
        """Why a request of this tenant would be shed, else empty; queries the database only if its last one was."""
        if tenant not in self._overloading:
            return ""
        detail = self._queue.living_requests(time.time_ns()).overload(tenant)
        if not detail:
            self._overloading.discard(tenant)
        return detail

    def record(self, requests: Sequence[Sequence[RowRecord]], now_ns: int | None = None) -> list[list[RowRecord]]:
        """Insert the rows of each request: rejected if they have a code, else admitted.

        Returns the records with their ledger ids, None for a rejected row that is only counted. Requests that exceed
        their tenant's share of the queue are shed, with the code `overloaded` and the limit as `code_detail`.
        """
        now_ns = time.time_ns() if now_ns is None else now_ns
        increments: Increments = {}
        with transaction(self.connection):
            has_admissions = any(not rows[0].code for rows in requests)
            waiting = self._queue.open_requests(now_ns) if has_admissions else None
            counts = self._rejection_counts(now_ns)
            recorded = []
            for rows in requests:
                if waiting and not rows[0].code and not rows[0].is_canary:
                    waiting, rows = self._admit(rows, waiting, now_ns)
                recorded.append([self._insert(row, now_ns, increments, counts) for row in rows])
            counts.write()
            metric_total.add(self.connection, increments)
        self._remember_overload(recorded)
        return recorded

    def settle(self, rows: Sequence[RowRecord], now_ns: int | None = None) -> list[bool]:
        """Close answered rows, and those that the engine ended at their time limit, which have a code.

        False for a row that does not exist, is closed with an answer already or was rejected.
        """
        now_ns = time.time_ns() if now_ns is None else now_ns
        increments: Increments = {}
        with transaction(self.connection):
            found = []
            for row in rows:
                statement, codes = (_CUT, (row.code,)) if row.code else (_SETTLE, ())
                is_on_time = self._execute_settle(statement, row, now_ns, *codes) == 1
                is_found = is_on_time or self._settle_late(row, now_ns, increments)
                found.append(is_found)
                if is_on_time:
                    self._count_outcome(increments, row.task, CANCELLED if row.code else SETTLED, row.is_canary)
                    self._count_usage(increments, row, row.num_prompt_tokens, row.actual_nano_usd)
                if is_found and row.flags and not row.is_canary:
                    self._record_breaches(row, increments, now_ns)
            metric_total.add(self.connection, increments)
        return found

    def reject(self, rows: Sequence[RowRecord], now_ns: int | None = None) -> None:
        """Close admitted rows that have got a code; they get the state `refused` and cost nothing.

        Those that `rejection_count` does not store are deleted, unless the engine may have worked for them.
        """
        now_ns = time.time_ns() if now_ns is None else now_ns
        increments: Increments = {}
        with transaction(self.connection):
            surplus = list(self._surplus)
            counts = self._rejection_counts(now_ns)
            for row in rows:
                if self.connection.execute(_REJECT, (row.code, now_ns, row.ledger_id)).rowcount:
                    self._count_outcome(increments, row.task, REFUSED, row.is_canary, row.code)
                    if row.code not in _KEPT_CODES and not counts.stores(row):
                        surplus.append(row)
            surplus = [row for row in surplus if not self._delete(row, counts)]
            counts.write()
            metric_total.add(self.connection, increments)
        self._surplus = surplus

    def close_unanswered(self, now_ns: int, max_open_s: float = MAX_OPEN_S) -> int:
        """Close rows that will not be answered; the parent process calls this each second.

        They are charged for their prompt and for the tokens that the engine noted, at most what was reserved.

        Rows of another boot become `lost`: call this only once that server has ended. Rows of this boot that have been
        open for more than `max_open_s` become `cancelled`. Returns the number of rows closed.
        """
        num_closed = 0
        while rows := self._unanswered(now_ns - int(max_open_s * 1e9)):
            num_closed += self._close_rows(rows, now_ns)
        return num_closed

    def delete_old_canaries(self, before_ns: int) -> int:
        """Delete a batch of canary rows admitted before `before_ns`; no total includes them. Returns their number."""
        rows = self.connection.execute(_OLD_CANARIES, (before_ns, _DELETE_BATCH_ROWS)).fetchall()
        if rows:
            with transaction(self.connection):
                self.connection.executemany("DELETE FROM request WHERE id = ?", rows)
        return len(rows)

    def record_dead_requests(self, num_requests: int, now_ns: int | None = None) -> None:
        """Record how many requests of this boot have failed in the engine so far; they no longer fill the queue."""
        if num_requests != self._queue.num_recorded_deaths():
            with transaction(self.connection):
                self._queue.record_deaths(num_requests, time.time_ns() if now_ns is None else now_ns)

    def _admit(self, rows: Sequence[RowRecord], waiting: Waiting, now_ns: int) -> tuple[Waiting, Sequence[RowRecord]]:
        """The rows, rejected if their tenant's share of the queue is taken, and the requests that wait then."""
        tenant, num_tokens = rows[0].tenant, sum(row.max_completion_tokens for row in rows)
        if waiting.overload(tenant, num_tokens):
            waiting = self._queue.living_requests(now_ns)
        if detail := waiting.overload(tenant, num_tokens):
            return waiting, rejected(rows, Code.OVERLOADED, detail)
        waiting.add_request(rows)
        return waiting, rows

    def _remember_overload(self, recorded: Sequence[Sequence[RowRecord]]) -> None:
        """Requests of a tenant whose last one was shed are shed before they cost any work (`overload`)."""
        for rows in recorded:
            if rows[0].code == Code.OVERLOADED.value:
                self._overloading.add(rows[0].tenant)
            elif not rows[0].code:
                self._overloading.discard(rows[0].tenant)
        if len(self._overloading) > _MAX_OVERLOADING_TENANTS:
            self._overloading.clear()

    def _rejection_counts(self, now_ns: int) -> RejectionCounts:
        return RejectionCounts(self.connection, self._engine_hash, now_ns)

    def _insert(self, row: RowRecord, now_ns: int, increments: Increments, counts: RejectionCounts) -> RowRecord:
        charged, state, closed_ns = (0, REFUSED, now_ns) if row.code else (row.prompt_nano_usd, ADMITTED, None)
        if row.code:
            self._count_outcome(increments, row.task, REFUSED, row.is_canary, row.code)
            if not counts.stores(row):
                counts.count(row)
                return row._replace(ledger_id=None)
        cursor = self.connection.execute(
            _INSERT, (*_inserted_values(row), self._engine_hash, self._boot_id, charged, state, now_ns, closed_ns)
        )
        return row._replace(ledger_id=cursor.lastrowid)

    def _delete(self, row: RowRecord, counts: RejectionCounts) -> bool:
        """Delete a rejected row and count it; False for the newest row, which stays: SQLite would reuse its id."""
        (newest_id,) = self.connection.execute("SELECT max(id) FROM request").fetchone()
        if row.ledger_id == newest_id:
            return False
        if self.connection.execute("DELETE FROM request WHERE id = ?", (row.ledger_id,)).rowcount:  # not pruned yet
            counts.count(row)
        return True

    def _execute_settle(self, statement: str, row: RowRecord, now_ns: int, *codes: str) -> int:
        values = (*codes, *_settled_values(row), ",".join(row.flags), now_ns, row.ledger_id)
        return self.connection.execute(statement, values).rowcount

    def _settle_late(self, row: RowRecord, now_ns: int, increments: Increments) -> bool:
        """Settle a cancelled or lost row: only the difference to what is counted already is added.

        One with a code was ended by the engine; that is its end.
        """
        closed = self.connection.execute(
            "SELECT state, actual_nano_usd, num_completion_tokens FROM request WHERE id = ? AND code = ''",
            (row.ledger_id,),
        ).fetchone()
        if closed is None or closed[0] not in (CANCELLED, LOST):
            return False
        self._execute_settle(_SETTLE_LATE, row, now_ns)
        self._count_outcome(increments, row.task, metric_total.LATE, row.is_canary)
        num_new_tokens = row.num_completion_tokens - closed[2]
        new_usage = row._replace(num_completion_tokens=num_new_tokens)
        self._count_usage(increments, new_usage, 0, row.actual_nano_usd - closed[1])
        return True

    def _record_breaches(self, row: RowRecord, increments: Increments, now_ns: int) -> None:
        observed = {alerts.QUEUE_DELAY: row.queue_delay_us, alerts.COST: row.actual_nano_usd}
        for flag in row.flags:
            rule = RULE_OF_FLAG.get(flag)
            if rule is None:
                continue
            if rule == alerts.SCHEMA_VIOLATION:
                metric_total.count(increments, metric_total.VIOLATIONS)
            alerts.record_breach(
                self.connection,
                self._alert_rules[rule],
                Breach(
                    observed=observed.get(rule, 1),
                    request_id=row.request_id,
                    tenant=row.tenant,
                    ledger_id=row.ledger_id,
                ),
                now_ns,
            )

    def _count_outcome(self, increments: Increments, task: str, outcome: str, is_canary: bool, code: str = "") -> None:
        if is_canary:
            return
        metric_total.count(increments, metric_total.REQUESTS, f"{task or metric_total.NO_TASK},{outcome}")
        if code:
            metric_total.count(increments, metric_total.REJECTED, code)

    def _count_usage(self, increments: Increments, row: RowRecord, num_prompt_tokens: int, nano_usd: int) -> None:
        if row.is_canary:
            return
        metric_total.count(increments, metric_total.TOKENS_IN, by=num_prompt_tokens)
        metric_total.count(increments, metric_total.TOKENS_OUT, by=row.num_completion_tokens)
        metric_total.count(increments, metric_total.COST, by=nano_usd)

    def _unanswered(self, before_ns: int) -> list[_UnansweredRow]:
        rows = self.connection.execute(UNANSWERED, (self._boot_id, before_ns, _CLOSE_BATCH_ROWS))
        return [_UnansweredRow(*row) for row in rows]

    def _close_rows(self, rows: Sequence[_UnansweredRow], now_ns: int) -> int:
        """Returns the number of rows closed: one may have been answered since the query."""
        num_closed = 0
        increments: Increments = {}
        usage = read_usage(self.connection, [(row.boot_id, row.ledger_id) for row in rows])
        with transaction(self.connection):
            for row in rows:
                num_tokens, nano_usd = self._usage_of(row, usage.get(row.ledger_id, 0))
                state = CANCELLED if row.boot_id == self._boot_id else LOST
                cursor = self.connection.execute(
                    "UPDATE request SET state = ?, closed_ns = ?, num_completion_tokens = ?, actual_nano_usd = ? "
                    "WHERE id = ? AND state = 'admitted'",
                    (state, now_ns, num_tokens, nano_usd, row.ledger_id),
                )
                if not cursor.rowcount:
                    continue
                num_closed += 1
                self._count_outcome(increments, row.task, state, row.is_canary)
                if not row.is_canary:
                    metric_total.count(increments, metric_total.TOKENS_IN, by=row.num_prompt_tokens)
                    metric_total.count(increments, metric_total.TOKENS_OUT, by=num_tokens)
                    metric_total.count(increments, metric_total.COST, by=nano_usd)
            metric_total.add(self.connection, increments)
        return num_closed

    def _usage_of(self, row: _UnansweredRow, num_noted_tokens: int) -> tuple[int, int]:
        """Completion tokens and cost of a row of which the engine noted this many tokens; at most what was reserved."""
        reserved_nano_usd = max(0, row.projected_nano_usd - row.charged_nano_usd)
        num_tokens = min(num_noted_tokens, reserved_nano_usd // self._price) if self._price else num_noted_tokens
        return num_tokens, row.charged_nano_usd + num_tokens * self._price
