"""The requests waiting for the engine, and who may add to them: once the queue is full, tenants share it equally.

An open row of the ledger is a waiting request, unless the request is dead: Triton does not report calls that a client
cancelled, and only the parent process sees calls that the engine failed. Once open rows alone fill a tenant's share,
two corrections apply: only rows younger than a limit count, derived from the slowest recent answers, and the dead
requests that the parent recorded in that period are subtracted. Both need extra queries, so they run only in that case.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from llm_policy.ledger.row_record import RowRecord
from llm_policy.release.manifest import Manifest

TABLES = """
CREATE TABLE IF NOT EXISTS engine_death (
    boot_id TEXT NOT NULL,
    noted_ns INTEGER NOT NULL,      -- Unix time
    num_requests INTEGER NOT NULL,  -- of that boot, dead by then
    PRIMARY KEY (boot_id, noted_ns)
) WITHOUT ROWID;
"""

# Far longer than any answer takes; a row closed too early is still settled by its answer.
MAX_OPEN_S = 600
# An open row counts for this many seconds plus this many times the slowest recent answer.
_AGE_LIMIT_BASE_S, _AGE_LIMIT_ANSWERS = 10, 4
_RECENT_ROWS = 1_000
_AGE_LIMIT_TTL_NS = 1_000_000_000
# Tenants that come while others fill the queue are admitted beyond its size, so that they need not wait for a place.
OVERCOMMITMENT = 2


# Summed up by SQLite: reading 64 open rows into Python is half of the work for a request that is refused.
_OPEN = (
    "SELECT tenant, sum(row_number = 0), count(*), sum(projected_nano_usd - actual_nano_usd) "
    "FROM request INDEXED BY request_open "
    "WHERE state = 'admitted' AND boot_id = ? AND admitted_ns >= ? AND canary = 0 GROUP BY tenant"
)


class Waiting:
    """The waiting requests and their completion tokens still to be decoded, at the most, by tenant."""

    def __init__(self, manifest: Manifest, price: int) -> None:
        self._engine = manifest.engine
        self._price = price  # of a completion token in nano-dollars
        self._max_tokens = manifest.thresholds.max_tokens
        self._num_requests: dict[str, int] = {}
        self._num_tokens: dict[str, int] = {}

    def add(self, tenant: str, num_requests: int, num_rows: int, completion_nano_usd: int) -> None:
        """Count the rows of requests. Their price tells their tokens; with free tokens each has the release's limit."""
        num_tokens = completion_nano_usd // self._price if self._price else num_rows * self._max_tokens
        self._num_requests[tenant] = self._num_requests.get(tenant, 0) + num_requests
        self._num_tokens[tenant] = self._num_tokens.get(tenant, 0) + num_tokens

    def add_request(self, rows: Sequence[RowRecord]) -> None:
        """Count a request that is admitted now."""
        completion_nano_usd = sum(row.projected_nano_usd - row.prompt_nano_usd for row in rows)
        self.add(rows[0].tenant, 1, len(rows), completion_nano_usd)

    def num_requests(self, tenant: str) -> int:
        """The waiting requests of one tenant."""
        return self._num_requests.get(tenant, 0)

    def subtract_dead(self, num_requests: int) -> None:
        """Let this number of requests count no more: in proportion of each tenant, as whose they were is unknown."""
        total = sum(self._num_requests.values())
        num_dead = min(num_requests, total)
        for tenant, number in self._num_requests.items():
            self._num_requests[tenant] = number - number * num_dead // max(1, total)
            self._num_tokens[tenant] -= self._num_tokens[tenant] * num_dead // max(1, total)

    def overload(self, tenant: str, num_tokens: int = 0) -> str:
        """Why this tenant may not add a request of `num_tokens` tokens: whose limit, limit and value. Empty if it may.

        A tenant without a waiting request may add one of any size.
        """
        number, total, max_total = (
            self.num_requests(tenant),
            sum(self._num_requests.values()),
            self._engine.max_queue_size,
        )
        all_tokens = sum(self._num_tokens.values()) + num_tokens
        has_tokens = not number or all_tokens <= self._engine.max_queue_tokens
        if total < max_total and has_tokens:
            return ""
        num_tenants = len({tenant, *(name for name, number in self._num_requests.items() if number)})
        of_whom = f"of {f'tenant {tenant}' if tenant else 'clients without X-Tenant'}"
        among = f" among {num_tenants} tenants" if num_tenants > 1 else ""
        share = max(1, max_total // num_tenants)
        if total >= max_total and number >= share:
            return f"{number} requests {of_whom} wait for their answers, limit {share} (max_queue_size{among})"
        if total >= OVERCOMMITMENT * max_total:
            limit = f"limit {OVERCOMMITMENT * max_total} (twice max_queue_size)"
            return f"{total} requests of all tenants wait for their answers, {limit}"
        tokens, share = self._num_tokens.get(tenant, 0) + num_tokens, self._engine.max_queue_tokens // num_tenants
        if tokens > share and not has_tokens:
            return f"requests {of_whom} need up to {tokens} tokens, limit {share} (max_queue_tokens{among})"
        return ""


class EngineQueue:
    """The queue of one boot of the server, as one process sees it."""

    def __init__(self, connection: sqlite3.Connection, boot_id: str, manifest: Manifest) -> None:
        self._connection = connection
        self._boot_id = boot_id
        self._manifest = manifest
        self._price = manifest.prices.per_token.output_nano_usd
        self._age_limit_ns = 0
        self._age_limit_computed_ns = 0

    def open_requests(self, now_ns: int) -> Waiting:
        """The requests with open rows; some may be dead."""
        return self._read(now_ns - MAX_OPEN_S * 1_000_000_000)

    def living_requests(self, now_ns: int) -> Waiting:
        """The requests that are not presumed dead."""
        since_ns = now_ns - self._age_limit(now_ns)
        waiting = self._read(since_ns)
        waiting.subtract_dead(self._num_dead(since_ns))
        return waiting

    def record_deaths(self, num_requests: int, now_ns: int) -> None:
        """Record the total of this boot's dead requests so far, in the caller's transaction."""
        execute = self._connection.execute
        execute("DELETE FROM engine_death WHERE boot_id <> ?", (self._boot_id,))
        execute(  # the newest expired record stays: later totals are compared with it
            "DELETE FROM engine_death WHERE noted_ns < (SELECT max(noted_ns) FROM engine_death WHERE noted_ns < ?)",
            (now_ns - MAX_OPEN_S * 1_000_000_000,),
        )
        execute("INSERT OR REPLACE INTO engine_death VALUES (?, ?, ?)", (self._boot_id, now_ns, num_requests))

    def num_recorded_deaths(self) -> int:
        """The total that `record_deaths` wrote last."""
        return self._max_deaths("1", ())

    def _read(self, since_ns: int) -> Waiting:
        waiting = Waiting(self._manifest, self._price)
        for tenant_sums in self._connection.execute(_OPEN, (self._boot_id, since_ns)):
            waiting.add(*tenant_sums)
        return waiting

    def _num_dead(self, since_ns: int) -> int:
        return self.num_recorded_deaths() - self._max_deaths("noted_ns < ?", (since_ns,))

    def _max_deaths(self, condition: str, values: tuple[int, ...]) -> int:
        row = self._connection.execute(
            f"SELECT max(num_requests) FROM engine_death WHERE boot_id = ? AND {condition}",  # noqa: S608 - from above
            (self._boot_id, *values),
        ).fetchone()
        return int(row[0] or 0)

    def _age_limit(self, now_ns: int) -> int:
        """The age in ns up to which an open row counts; `MAX_OPEN_S` until a first request is answered."""
        if now_ns - self._age_limit_computed_ns > _AGE_LIMIT_TTL_NS:
            row = self._connection.execute(
                "SELECT max(closed_ns - admitted_ns) FROM request "
                "WHERE id > (SELECT max(id) FROM request) - ? AND state = 'settled' AND boot_id = ?",
                (_RECENT_ROWS, self._boot_id),
            ).fetchone()
            answers_ns = MAX_OPEN_S * 1_000_000_000 if row[0] is None else _AGE_LIMIT_ANSWERS * int(row[0])
            self._age_limit_ns = min(_AGE_LIMIT_BASE_S * 1_000_000_000 + answers_ns, MAX_OPEN_S * 1_000_000_000)
            self._age_limit_computed_ns = now_ns
        return self._age_limit_ns
