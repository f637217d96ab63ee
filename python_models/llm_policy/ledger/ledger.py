"""The ledger: one row for each row of a request that reached preprocess, from admission to its final state.

    admitted ──► settled     answered: actual tokens and cost
       │    └──► refused     internal error, or its guide was rejected after compiling; costs nothing
       ├───────► cancelled   same server start, but no answer came within the time limit, or soon after the engine
       │                     had ended it, or it never came to the engine; costs its prompt and what the engine decoded,
       │                     as far as it is known. With a code: the engine ended it at its limit
       └───────► lost        the server start that admitted it has ended; costs the same
    refused                  rejected immediately; costs nothing

Refused rows of senders that can't name the engine or their tenant are sampled: most are only counted, and have no row
(`rejection_count`). An answer that comes after its row was cancelled or lost still settles it, unless a budget of its
tenant has no room for it any more. Every change of a row updates the metric totals (`metric_total`), the usage
(`usage`) and its tenant's account (`tenant_account`), and records its breaches (`alerts`) in the same transaction.

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
from llm_policy.ledger import alerts, metric_total, usage
from llm_policy.ledger.alerts import AlertRule, Breach
from llm_policy.ledger.budget_window import day_of
from llm_policy.ledger.database import transaction
from llm_policy.ledger.engine_queue import MAX_OPEN_S, EngineQueue, Waiting
from llm_policy.ledger.engine_usage import EngineNote, EngineNotes, read_notes
from llm_policy.ledger.metric_total import Increments
from llm_policy.ledger.rejection_count import RejectionCounts
from llm_policy.ledger.row_record import RowRecord, rejected
from llm_policy.ledger.tables import ADMITTED, CANCELLED, LOST, REFUSED, SETTLED
from llm_policy.ledger.tenant import Tenant, find_by_key, is_registered
from llm_policy.ledger.tenant_account import Need, Refusal, TenantAccount, reserved_tokens
from llm_policy.ledger.usage import Usage, UsageKey
from llm_policy.release.manifest import Manifest

_UNANSWERED_ROWS = 1_000  # read at once
_CLOSE_BATCH_ROWS = _DELETE_BATCH_ROWS = 100  # requests wait for the write lock meanwhile
_NS_PER_S = 1_000_000_000
_MAX_REFUSED_TENANTS = 1_000  # remembered; more only cost their requests' work
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
    f"engine_hash, boot_id, actual_nano_usd, state, admitted_ns, closed_ns, reserved_tokens) "
    f"VALUES ({'?, ' * len(_INSERTED_FIELDS)}?, ?, ?, ?, ?, ?, ?)"
)
_SET_SETTLED = f"{', '.join(f'{column} = ?' for column in _SETTLED_FIELDS)}, flags = ?, closed_ns = ?"
# A row is read before it is closed: RETURNING takes 3 µs longer.
_FIND_OPEN = (
    "SELECT tenant, admitted_ns, reserved_tokens, projected_nano_usd FROM request WHERE id = ? AND state = 'admitted'"
)
_SETTLE = f"UPDATE request SET state = 'settled', {_SET_SETTLED} WHERE id = ?"  # noqa: S608
_CUT = f"UPDATE request SET state = 'cancelled', code = ?, {_SET_SETTLED} WHERE id = ?"  # noqa: S608
_SETTLE_LATE = f"UPDATE request SET state = 'settled', swept_as = state, {_SET_SETTLED} WHERE id = ?"  # noqa: S608
# An answer is settled within milliseconds of its end in the engine; later only on a machine that is overloaded.
ENDED_GRACE_S = 15
# A row comes to the engine at once, or after 9 s if its guide is new. It never comes if its client cancelled
# the call before: Triton drops such a call between two steps and tells nobody.
MISSING_GRACE_S = 30
# Runs each second; the partial index covers open rows only, so the cost does not grow with the table.
UNANSWERED = (
    "SELECT id, boot_id, canary, num_prompt_tokens, actual_nano_usd, projected_nano_usd, task, tenant, schema_id, "
    "engine_hash, admitted_ns, row_number "
    "FROM request INDEXED BY request_open "
    "WHERE state = 'admitted' AND (boot_id <> ? OR admitted_ns < ?) ORDER BY id LIMIT ?"
)
# The newest row stays, because SQLite would reuse its id.
_OLD_CANARIES = (
    "SELECT id FROM request INDEXED BY request_canary WHERE canary = 1 AND admitted_ns < ? AND state <> 'admitted' "
    "AND id < (SELECT max(id) FROM request) LIMIT ?"
)
_REJECT = "UPDATE request SET state = 'refused', code = ?, actual_nano_usd = 0, closed_ns = ? WHERE id = ?"
_CLOSE = "UPDATE request SET state = ?, closed_ns = ?, num_completion_tokens = ?, actual_nano_usd = ? WHERE id = ?"


class _OpenRow(NamedTuple):
    """What a row that is closed now had reserved; no tokens: it has no account."""

    tenant: str
    admitted_ns: int
    reserved_tokens: int | None
    reserved_nano_usd: int


class _UnansweredRow(NamedTuple):
    ledger_id: int
    boot_id: str
    is_canary: bool
    num_prompt_tokens: int
    charged_nano_usd: int
    projected_nano_usd: int
    task: str
    tenant: str
    schema_id: str
    engine_hash: str
    admitted_ns: int
    row_number: int

    @property
    def first_id(self) -> int:
        """The ledger id of the first row of its request."""
        return self.ledger_id - self.row_number


class _Changes:
    """What one transaction adds to the totals and to the accounts of tenants."""

    def __init__(self, connection: sqlite3.Connection, now_ns: int) -> None:
        self.now_ns = now_ns
        self.increments: Increments = {}
        self._connection = connection
        self._usage: dict[UsageKey, Usage] = {}
        self._refusals: dict[tuple[str, int, str], int] = {}
        self._accounts: dict[str, TenantAccount] = {}

    def account(self, tenant: str) -> TenantAccount:
        """The account of a registered tenant."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = TenantAccount(self._connection, tenant, self.now_ns)
        return account

    def end_reservation(self, ended: _OpenRow, num_tokens: int, nano_usd: int) -> None:
        """Let a row that is closed use this instead of what it reserved; nothing happens for one without an account."""
        if ended.reserved_tokens is not None:
            reserved = (ended.reserved_tokens, ended.reserved_nano_usd)
            self.account(ended.tenant).close(ended.admitted_ns, reserved, (num_tokens, nano_usd))

    def add_usage(self, key: UsageKey, more: Usage) -> None:
        """Count the tokens and the cost of a closed row."""
        known = self._usage.get(key)
        self._usage[key] = more if known is None else Usage(*map(sum, zip(known, more, strict=True)))

    def add_outcome(self, task: str, outcome: str) -> None:
        """Count how a row ended."""
        metric_total.count(self.increments, metric_total.REQUESTS, f"{task or metric_total.NO_TASK},{outcome}")

    def add_refusal(self, row: RowRecord) -> None:
        """Count a rejected row."""
        if not row.is_canary:
            self.add_outcome(row.task, REFUSED)
            metric_total.count(self.increments, metric_total.REJECTED, row.code)
        if row.is_authenticated:
            key = (row.tenant, day_of(self.now_ns), row.code)
            self._refusals[key] = self._refusals.get(key, 0) + 1

    def write(self) -> None:
        """Add all of them, in the caller's transaction."""
        for account in self._accounts.values():
            account.save()
        for used in self._usage.values():
            metric_total.count(self.increments, metric_total.TOKENS_IN, by=used.num_prompt_tokens)
            metric_total.count(self.increments, metric_total.TOKENS_OUT, by=used.num_completion_tokens)
            metric_total.count(self.increments, metric_total.COST, by=used.nano_usd)
        metric_total.add(self._connection, self.increments)
        usage.add(self._connection, self._usage)
        usage.add_refusals(self._connection, self._refusals)


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
        self._refused: set[tuple[str, bool]] = set()  # senders whose last request the ledger refused
        self._surplus: list[RowRecord] = []  # rejected rows that `reject` deletes once newer rows exist

    def find_tenant(self, key_digest: bytes) -> Tenant | None:
        """The tenant of a valid API key with this digest."""
        return find_by_key(self.connection, key_digest, time.time_ns())

    def is_registered(self, tenant: str) -> bool:
        """Whether this name may be used with an API key only."""
        return is_registered(self.connection, tenant)

    def refusal(self, tenant: str, is_authenticated: bool) -> Refusal | None:
        """Why even the smallest request of this sender would be refused; queries only if its last one was."""
        if (tenant, is_authenticated) not in self._refused:
            return None
        now_ns = time.time_ns()
        account = TenantAccount(self.connection, tenant, now_ns) if is_authenticated else None
        refusal = _limit_refusal(tenant, account, Need(), self._queue.living_requests(now_ns))
        if refusal is None:
            self._refused.discard((tenant, is_authenticated))
        return refusal

    def record(self, requests: Sequence[Sequence[RowRecord]], now_ns: int | None = None) -> list[list[RowRecord]]:
        """Insert the rows of each request: rejected if they have a code, else admitted.

        Returns the records with their ledger ids, None for a rejected row that is only counted. Requests that exceed
        their tenant's limits or its share of the queue are refused: they get a code, and the limit as `code_detail`.
        """
        now_ns = time.time_ns() if now_ns is None else now_ns
        changes = _Changes(self.connection, now_ns)
        with transaction(self.connection):
            has_admissions = any(not rows[0].code for rows in requests)
            waiting = self._queue.open_requests(now_ns) if has_admissions else None
            counts = self._rejection_counts(now_ns)
            recorded = []
            for rows in requests:
                if waiting and not rows[0].code and not rows[0].is_canary:
                    waiting, rows = self._admit(rows, waiting, changes)
                recorded.append([self._insert(row, changes, counts) for row in rows])
            counts.write()
            changes.write()
        self._remember_refusals(recorded)
        return recorded

    def settle(self, rows: Sequence[RowRecord], now_ns: int | None = None) -> list[bool]:
        """Close answered rows, and those that the engine ended at their time limit, which have a code.

        False for a row that does not exist, is closed with an answer already or was rejected, or whose late answer
        has no room in a budget.
        """
        now_ns = time.time_ns() if now_ns is None else now_ns
        changes = _Changes(self.connection, now_ns)
        with transaction(self.connection):
            found = []
            for row in rows:
                is_found = self._settle_on_time(row, changes) or self._settle_late(row, changes)
                found.append(is_found)
                if is_found and row.flags and not row.is_canary:
                    self._record_breaches(row, changes)
            changes.write()
        return found

    def reject(self, rows: Sequence[RowRecord], now_ns: int | None = None) -> None:
        """Close admitted rows that have got a code; they get the state `refused` and cost nothing.

        Those that `rejection_count` does not store are deleted, unless the engine may have worked for them.
        """
        now_ns = time.time_ns() if now_ns is None else now_ns
        changes = _Changes(self.connection, now_ns)
        with transaction(self.connection):
            surplus = list(self._surplus)
            counts = self._rejection_counts(now_ns)
            for row in rows:
                if closed := self._close(_REJECT, row.code, now_ns, row.ledger_id):
                    changes.end_reservation(closed, 0, 0)
                    changes.add_refusal(row)
                    if row.code not in _KEPT_CODES and not counts.stores(row):
                        surplus.append(row)
            surplus = [row for row in surplus if not self._delete(row, counts)]
            counts.write()
            changes.write()
        self._surplus = surplus

    def close_unanswered(self, now_ns: int, max_open_s: float = MAX_OPEN_S) -> int:
        """Close rows that will not be answered; the parent process calls this each second.

        They are charged for their prompt and for the tokens that the engine noted, at most what was reserved.

        Rows of another boot become `lost`: call this only once that server has ended. Rows of this boot that have been
        open for more than `max_open_s`, whose request the engine ended more than `ENDED_GRACE_S` ago, or whose request
        has not come to the engine within `MISSING_GRACE_S` although a later one has, become `cancelled`. Returns the
        number of rows closed.
        """
        num_closed = 0
        while rows := self._unanswered(now_ns - int(max_open_s * 1e9)):
            num_closed += self._close_rows(rows, self._read_notes(rows), now_ns)
        ended_before_ns = now_ns - ENDED_GRACE_S * _NS_PER_S
        while rows := self._unanswered(ended_before_ns):
            notes = self._read_notes(rows)
            missing_before_ns = now_ns - MISSING_GRACE_S * _NS_PER_S
            num_over = self._close_rows(_over(rows, notes, ended_before_ns, missing_before_ns), notes, now_ns)
            num_closed += num_over
            if not num_over or len(rows) < _UNANSWERED_ROWS:
                break
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

    def _admit(
        self, rows: Sequence[RowRecord], waiting: Waiting, changes: _Changes
    ) -> tuple[Waiting, Sequence[RowRecord]]:
        """The rows, rejected if a limit of their tenant is reached, and the requests that wait then."""
        sender, need = rows[0], Need.of(rows)
        account = changes.account(sender.tenant) if _has_account(sender) else None
        refusal = _limit_refusal(sender.tenant, account, need, waiting)
        if refusal is not None and refusal.depends_on_queue:  # some of the waiting requests may be dead
            waiting = self._queue.living_requests(changes.now_ns)
            refusal = _limit_refusal(sender.tenant, account, need, waiting)
        if refusal is not None:
            if account is not None:
                account.report(refusal)
            return waiting, rejected(rows, refusal.code, refusal.detail)
        waiting.add_request(rows)
        if account is not None:
            account.reserve(need)
        return waiting, rows

    def _remember_refusals(self, recorded: Sequence[Sequence[RowRecord]]) -> None:
        """Requests of a sender whose last one was refused are refused before they cost any work (`refusal`)."""
        for rows in recorded:
            sender = (rows[0].tenant, rows[0].is_authenticated)
            if rows[0].code_detail:
                self._refused.add(sender)
            elif not rows[0].code:
                self._refused.discard(sender)
        if len(self._refused) > _MAX_REFUSED_TENANTS:
            self._refused.clear()

    def _rejection_counts(self, now_ns: int) -> RejectionCounts:
        return RejectionCounts(self.connection, self._engine_hash, now_ns)

    def _insert(self, row: RowRecord, changes: _Changes, counts: RejectionCounts) -> RowRecord:
        now_ns = changes.now_ns
        if row.code:
            changes.add_refusal(row)
            if not counts.stores(row):
                counts.count(row)
                return row._replace(ledger_id=None)
            ending: tuple[object, ...] = (0, REFUSED, now_ns, now_ns, None)
        else:
            reserved = reserved_tokens(row) if _has_account(row) else None
            ending = (row.prompt_nano_usd, ADMITTED, now_ns, None, reserved)
        values = (*_inserted_values(row), self._engine_hash, self._boot_id, *ending)
        return row._replace(ledger_id=self.connection.execute(_INSERT, values).lastrowid)

    def _delete(self, row: RowRecord, counts: RejectionCounts) -> bool:
        """Delete a rejected row and count it; False for the newest row, which stays: SQLite would reuse its id."""
        (newest_id,) = self.connection.execute("SELECT max(id) FROM request").fetchone()
        if row.ledger_id == newest_id:
            return False
        if self.connection.execute("DELETE FROM request WHERE id = ?", (row.ledger_id,)).rowcount:  # not pruned yet
            counts.count(row)
        return True

    def _close(self, statement: str, *values: object) -> _OpenRow | None:
        """Execute a statement on the row whose id is the last value; None, and nothing happens, unless it is open."""
        found = self.connection.execute(_FIND_OPEN, values[-1:]).fetchone()
        if found is None:
            return None
        self.connection.execute(statement, values)
        return _OpenRow(*found)

    def _settle_on_time(self, row: RowRecord, changes: _Changes) -> bool:
        values = (*_settled_values(row), ",".join(row.flags), changes.now_ns, row.ledger_id)
        closed = self._close(_CUT, row.code, *values) if row.code else self._close(_SETTLE, *values)
        if closed is None:
            return False
        changes.end_reservation(closed, row.num_prompt_tokens + row.num_completion_tokens, row.actual_nano_usd)
        if not row.is_canary:
            changes.add_outcome(row.task, CANCELLED if row.code else SETTLED)
            used = Usage(1, row.num_prompt_tokens, row.num_completion_tokens, row.actual_nano_usd)
            changes.add_usage(_usage_key(row, closed.admitted_ns, self._engine_hash), used)
        return True

    def _settle_late(self, row: RowRecord, changes: _Changes) -> bool:
        """Settle a cancelled or lost row: only the difference to what is counted already is added.

        One with a code was ended by the engine; that is its end.
        """
        closed = self.connection.execute(
            "SELECT state, num_prompt_tokens, num_completion_tokens, actual_nano_usd, admitted_ns, engine_hash, "
            "schema_id FROM request WHERE id = ? AND code = ''",
            (row.ledger_id,),
        ).fetchone()
        if closed is None or closed[0] not in (CANCELLED, LOST):
            return False
        counted = Usage(1, *closed[1:4])
        admitted_ns, engine_hash, schema_id = closed[4:]
        more_nano_usd = row.actual_nano_usd - counted.nano_usd
        if _has_account(row) and not changes.account(row.tenant).spend_late(admitted_ns, more_nano_usd):
            return False
        values = (*_settled_values(row), ",".join(row.flags), changes.now_ns, row.ledger_id)
        self.connection.execute(_SETTLE_LATE, values)
        if not row.is_canary:
            changes.add_outcome(row.task, metric_total.LATE)
            # A client's guide gets its schema id after the row was admitted, so the row may change its group.
            before = _usage_key(row._replace(schema_id=schema_id), admitted_ns, engine_hash)
            changes.add_usage(before, Usage(*(-value for value in counted)))
            used = Usage(1, counted.num_prompt_tokens, row.num_completion_tokens, row.actual_nano_usd)
            changes.add_usage(_usage_key(row, admitted_ns, engine_hash), used)
        return True

    def _record_breaches(self, row: RowRecord, changes: _Changes) -> None:
        observed = {alerts.QUEUE_DELAY: row.queue_delay_us, alerts.COST: row.actual_nano_usd}
        for flag in row.flags:
            rule = RULE_OF_FLAG.get(flag)
            if rule is None:
                continue
            if rule == alerts.SCHEMA_VIOLATION:
                metric_total.count(changes.increments, metric_total.VIOLATIONS)
            alerts.record_breach(
                self.connection,
                self._alert_rules[rule],
                Breach(
                    observed=observed.get(rule, 1),
                    request_id=row.request_id,
                    tenant=row.tenant,
                    ledger_id=row.ledger_id,
                ),
                changes.now_ns,
            )

    def _unanswered(self, before_ns: int) -> list[_UnansweredRow]:
        rows = self.connection.execute(UNANSWERED, (self._boot_id, before_ns, _UNANSWERED_ROWS))
        return [_UnansweredRow(*row) for row in rows]

    def _read_notes(self, rows: Sequence[_UnansweredRow]) -> EngineNotes:
        return read_notes(self.connection, [(row.boot_id, row.ledger_id) for row in rows], self._boot_id)

    def _close_rows(self, rows: Sequence[_UnansweredRow], notes: EngineNotes, now_ns: int) -> int:
        """Returns the number of rows closed: one may have been answered since the query."""
        batches = [rows[first : first + _CLOSE_BATCH_ROWS] for first in range(0, len(rows), _CLOSE_BATCH_ROWS)]
        return sum(self._close_batch(batch, notes, now_ns) for batch in batches)

    def _close_batch(self, rows: Sequence[_UnansweredRow], notes: EngineNotes, now_ns: int) -> int:
        num_closed = 0
        changes = _Changes(self.connection, now_ns)
        with transaction(self.connection):
            for row in rows:
                num_tokens, nano_usd = self._usage_of(row, notes.by_id.get(row.ledger_id, EngineNote()).num_tokens)
                state = CANCELLED if row.boot_id == self._boot_id else LOST
                closed = self._close(_CLOSE, state, now_ns, num_tokens, nano_usd, row.ledger_id)
                if closed is None:
                    continue
                num_closed += 1
                changes.end_reservation(closed, row.num_prompt_tokens + num_tokens, nano_usd)
                if not row.is_canary:
                    changes.add_outcome(row.task, state)
                    changes.add_usage(
                        _usage_key(row, row.admitted_ns, row.engine_hash),
                        Usage(1, row.num_prompt_tokens, num_tokens, nano_usd),
                    )
            changes.write()
        return num_closed

    def _usage_of(self, row: _UnansweredRow, num_noted_tokens: int) -> tuple[int, int]:
        """Completion tokens and cost of a row of which the engine noted this many tokens; at most what was reserved."""
        reserved_nano_usd = max(0, row.projected_nano_usd - row.charged_nano_usd)
        num_tokens = min(num_noted_tokens, reserved_nano_usd // self._price) if self._price else num_noted_tokens
        return num_tokens, row.charged_nano_usd + num_tokens * self._price


def _has_account(row: RowRecord) -> bool:
    return row.is_authenticated and not row.is_canary


def _limit_refusal(tenant: str, account: TenantAccount | None, need: Need, waiting: Waiting) -> Refusal | None:
    refusal = None if account is None else account.refusal(need, waiting.num_requests(tenant))
    if refusal is None and (detail := waiting.overload(tenant, need.num_completion_tokens)):
        refusal = Refusal(Code.OVERLOADED, detail, depends_on_queue=True)
    return refusal


def _usage_key(row: RowRecord | _UnansweredRow, admitted_ns: int, engine_hash: str) -> UsageKey:
    """The group of a row."""
    return UsageKey(row.tenant, day_of(admitted_ns), row.task, usage.schema_group(row.schema_id), engine_hash)


def _over(
    rows: Sequence[_UnansweredRow], notes: EngineNotes, ended_before_ns: int, missing_before_ns: int
) -> list[_UnansweredRow]:
    """The rows of those requests of which each row ended in the engine, or is missing there, since these times."""

    def is_over(row: _UnansweredRow) -> bool:
        note = notes.by_id.get(row.ledger_id)
        if note is None:
            return row.ledger_id < notes.newest_id and row.admitted_ns < missing_before_ns
        return note.ended_ns is not None and note.ended_ns < ended_before_ns

    unfinished = {row.first_id for row in rows if not is_over(row)}
    return [row for row in rows if row.first_id not in unfinished]
