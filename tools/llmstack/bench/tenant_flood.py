"""A polite tenant beside the floods of another one: what its requests get, how long they take, and who used the time.

The polite tenant's clients pause after each answer, so they leave the server idle when they are alone. The flooders'
processor time is taken from the same machine; a flood that computes and sends nothing shows what that alone does.
"""

from __future__ import annotations

import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from llm_policy.ledger.database import FILE_NAME, open_database, open_read_only
from llm_policy.ledger.tables import REFUSED
from llm_policy.ledger.tenant import TenantLimits
from llm_policy.rules.headers import API_KEY
from llmstack.bench.flood_clients import (
    GUIDES,
    PROCESSOR,
    REQUESTS,
    STREAMS,
    VANISHED,
    FloodPlan,
    FloodProcess,
)
from llmstack.bench.measured_gateway import POLITE_ADDRESSES, MeasuredGateway
from llmstack.bench.polite_clients import PoliteClients, Timed
from llmstack.bench.process_usage import cpu_seconds
from llmstack.client.ensemble_client import ServerUrls
from llmstack.tenants.tenant_admin import create_tenant

ALONE = "alone"
POLITE, GREEDY, LIMITED = "polite", "greedy", "limited"
"""The tenants. The greedy one has no limits, the limited one may send one request per second."""
_LIMITED_PER_MINUTE = 60
_RAMP_S = 1.0  # of a flood, before anything is measured
_QUIET_TIMEOUT_S, _POLL_S = 90.0, 0.5  # rows of clients that are gone are closed after 15 or 30 s
_P99 = 0.99


class Flood(NamedTuple):
    """One flood: whose it is, and the kinds of its clients."""

    name: str
    tenant: str
    kinds: tuple[str, ...]


FLOODS = (
    Flood("one busy core", GREEDY, (PROCESSOR,)),
    Flood("requests", GREEDY, (REQUESTS,)),
    Flood("refused requests", LIMITED, (REQUESTS,)),
    Flood("slow streams", GREEDY, (STREAMS,)),
    Flood("new guides", GREEDY, (GUIDES,)),
    Flood("vanished clients", GREEDY, (VANISHED,)),
    Flood("all at once", GREEDY, (REQUESTS, STREAMS, GUIDES, VANISHED)),
)


class FloodedServer(NamedTuple):
    """What is measured: its addresses, the parent process of everything that serves, and its state directory.

    If there is a gateway, everything goes through it instead.
    """

    urls: ServerUrls
    pid: int
    state_dir: Path
    gateway: MeasuredGateway | None = None


class Latency(NamedTuple):
    """Milliseconds of one kind of request; the ratios are to the same kind alone.

    Of fewer than 100 requests the 99th percentile is the maximum.
    """

    num_requests: int
    p50_ms: float
    p99_ms: float
    p50_ratio: float
    p99_ratio: float


class FloodResult(NamedTuple):
    """One flood. `cores` has the processor seconds per second of server, flooders, polite clients, and the gateway."""

    flood: str
    seconds: float
    num_requests: int
    failures: dict[str, int]
    """The polite tenant's failed requests by their reason."""
    latency: dict[str, Latency]
    """By the kind of the polite tenant's requests."""
    rows: dict[str, int]
    """The flooder's rows in the ledger, by state or code of refusal."""
    answers: dict[str, dict[str, int]]
    """What the flooder saw, by kind and code."""
    cores: dict[str, float]

    @property
    def success(self) -> float:
        """The share of the polite tenant's requests that were answered."""
        return 1 - sum(self.failures.values()) / max(1, self.num_requests)


class TenantFloods:
    """Measures the floods beside the polite tenant, one after the other, on one server."""

    def __init__(
        self,
        server: FloodedServer,
        headers: Mapping[str, str],
        schema_id: str,
        *,
        seconds: float,
        num_connections: int,
        pause_s: float,
        flood_rate: float | None = None,
        flood_gives_way: bool = False,
    ) -> None:
        """`headers` name the engine; `seconds` is how long each measurement takes.

        The flood sends at most `flood_rate` requests a second; see `FloodPlan` for `flood_gives_way`.
        """
        self._server, self._schema_id = server, schema_id
        self._urls = server.gateway.urls if server.gateway else server.urls
        self._flood_rate, self._flood_gives_way = flood_rate, flood_gives_way
        self._seconds, self._num_connections, self._pause_s = seconds, num_connections, pause_s
        self._path = server.state_dir / FILE_NAME
        limits = {LIMITED: TenantLimits(max_requests_per_minute=_LIMITED_PER_MINUTE)}
        keys = register_tenants(
            self._path, {name: limits.get(name, TenantLimits()) for name in (POLITE, GREEDY, LIMITED)}
        )
        self._headers = {name: {**headers, API_KEY: key} for name, key in keys.items()}
        self._alone: dict[str, Latency] = {}

    def measure_alone(self) -> FloodResult:
        """The polite tenant alone; what follows is compared with it."""
        self._alone = {}
        result = self._measure(ALONE, lambda: 0.0)
        self._alone = result.latency
        return result

    def measure(self, flood: Flood) -> FloodResult:
        """The polite tenant beside one flood; waits then until nothing of the flooder is open.

        Raises:
            TimeoutError: rows of the flooder stay open.
        """
        before = self._rows(flood.tenant)
        if self._server.gateway is not None:
            self._server.gateway.restart()
        with FloodProcess(self.plan(flood)) as flooder:
            time.sleep(_RAMP_S)
            result = self._measure(flood.name, flooder.cpu_seconds)
        self._wait_quiet(flood.tenant)
        rows = self._rows(flood.tenant)
        return result._replace(rows=dict(rows - before), answers=flooder.counts)

    def plan(self, flood: Flood) -> FloodPlan:
        """What the flooding process gets."""
        parts = urlsplit(self._urls.http_url)
        return FloodPlan(
            parts.hostname or "",
            parts.port or 0,
            self._urls.grpc_url,
            self._headers[flood.tenant],
            list(flood.kinds),
            self._num_connections,
            self._urls.root_certificates,
            self._flood_rate,
            self._flood_gives_way,
        )

    def _measure(self, name: str, flooder_cpu: Callable[[], float]) -> FloodResult:
        clocks = {"server": lambda: cpu_seconds(self._server.pid), "flooders": flooder_cpu, "polite": time.process_time}
        gateway = self._server.gateway
        if gateway is not None:
            clocks["gateway"] = lambda: cpu_seconds(gateway.pid)
        began, before = time.perf_counter(), {who: clock() for who, clock in clocks.items()}
        addresses = POLITE_ADDRESSES if gateway is not None else ()
        with PoliteClients(self._urls, self._headers[POLITE], self._schema_id, self._pause_s, addresses) as clients:
            time.sleep(self._seconds)
        elapsed_s = time.perf_counter() - began
        cores = {who: round((clock() - before[who]) / elapsed_s, 2) for who, clock in clocks.items()}
        failures = Counter(timed.failure for timed in clients.timed if timed.failure)
        latency = self._latency(clients.timed)
        return FloodResult(name, round(elapsed_s, 1), len(clients.timed), dict(failures), latency, {}, {}, cores)

    def _latency(self, timed: list[Timed]) -> dict[str, Latency]:
        found = {}
        for kind in sorted({each.kind for each in timed}):
            ordered = sorted(each.seconds * 1e3 for each in timed if each.kind == kind)
            p50, p99 = statistics.median(ordered), ordered[int(_P99 * len(ordered))]
            alone = self._alone.get(kind)
            ratios = (p50 / alone.p50_ms, p99 / alone.p99_ms) if alone else (1.0, 1.0)
            found[kind] = Latency(len(ordered), *(round(value, 2) for value in (p50, p99, *ratios)))
        return found

    def _rows(self, tenant: str) -> Counter[str]:
        """The rows of a tenant by state, the refused ones by code."""
        with self._reading() as connection:
            states = connection.execute(
                "SELECT state, count(*) FROM request WHERE tenant = ? AND state <> ? GROUP BY 1", (tenant, REFUSED)
            ).fetchall()
            codes = connection.execute(
                "SELECT code, sum(num_rows) FROM refusal_day WHERE tenant = ? GROUP BY 1", (tenant,)
            ).fetchall()
        return Counter(dict([*states, *codes]))

    def _wait_quiet(self, tenant: str) -> None:
        deadline_s = time.monotonic() + _QUIET_TIMEOUT_S
        while num_open := self._rows(tenant)["admitted"]:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{num_open} rows of tenant {tenant} are still open")
            time.sleep(_POLL_S)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with closing(open_read_only(self._path)) as connection:
            yield connection


def register_tenants(path: Path, limits: Mapping[str, TenantLimits]) -> dict[str, str]:
    """Create the tenants in the ledger at `path`; their keys by name.

    Raises:
        TenantError: one exists already.
        sqlite3.Error: the ledger can't be written.
    """
    with closing(open_database(path)) as connection:
        return {
            name: create_tenant(connection, name, each, time.time_ns()).new_key.key for name, each in limits.items()
        }


def as_json(result: FloodResult) -> dict[str, Any]:
    """A result for a JSON file."""
    latency = {kind: values._asdict() for kind, values in result.latency.items()}
    return {**result._asdict(), "latency": latency, "success": result.success}
