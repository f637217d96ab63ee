"""`llmstack bench tenants`."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from llmstack.bench.plans import FLOOD_NAMES
from llmstack.cli.bench.options import MeasuredRelease
from llmstack.cli.server_start import exit_with_error
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.gateway.configuration import Limits
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError

if TYPE_CHECKING:
    from llmstack.bench.served_stack import ServedStack
    from llmstack.bench.tenant_flood import FloodedServer, FloodResult, TenantFloods


def tenants(
    release_dir: MeasuredRelease = DEFAULT_RELEASE_DIR,
    seconds: Annotated[float, typer.Option(min=1, help="How long each flood is measured.")] = 15,
    connections: Annotated[int, typer.Option(min=1, help="Connections of each kind of flood.")] = 64,
    pause_ms: Annotated[float, typer.Option(min=0, help="Pause of the polite clients after an answer.")] = 20,
    token_interval_ms: Annotated[float, typer.Option(min=0, help="The engine's time for a token.")] = 0,
    floods: Annotated[
        list[str] | None, typer.Option("--flood", help=f"Measure only this one; repeatable: {', '.join(FLOOD_NAMES)}.")
    ] = None,
    gateway: Annotated[
        bool,
        typer.Option(
            "--gateway",
            help="Send everything through the gateway, a real HAProxy with the default limits. The flood has one "
            "client address, each polite client another.",
        ),
    ] = False,
    max_client_in_flight: Annotated[
        int, typer.Option(min=1, help="With --gateway: requests of one client address in flight.")
    ] = Limits().max_client_in_flight,
    flood_rate: Annotated[
        float | None,
        typer.Option(min=1, help="Requests of a flood per second, at most.", show_default="as many as it can send"),
    ] = None,
    flood_gives_way: Annotated[
        bool,
        typer.Option(
            "--flood-gives-way",
            help="The flood's process takes only the processor time that others leave, as if it ran elsewhere. It may "
            "send less then.",
        ),
    ] = False,
    output: Annotated[Path | None, typer.Option(help="JSON file for the rows and the machine.")] = None,
    as_json_text: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a polite tenant's requests alone and beside floods of another tenant, on the no-op engine.

    Everything runs on this machine, so the flood's clients and the gateway take processor time from the server.

    Exits with 1 if one of its requests failed, if a stub was restarted, or if the ledger is not consistent.

    Example: llmstack bench tenants --seconds 30
    """
    import orjson

    from llm_policy.release.release import Release
    from llmstack.bench.served_stack import ServedStack
    from llmstack.bench.tenant_flood import TenantFloods
    from llmstack.client.ensemble_client import release_headers
    from llmstack.gateway.configuration import GatewayError
    from llmstack.server.process import DEFAULT_START_TIMEOUT_S

    if unknown := [name for name in floods or [] if name not in FLOOD_NAMES]:
        fail(f"there is no flood {unknown[0]!r}", f"choose among {', '.join(FLOOD_NAMES)}")
    console = Console(stderr=as_json_text, highlight=False)
    options = {"token_interval_ms": str(token_interval_ms)} if token_interval_ms else {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="tenants-") as directory,
            ServedStack(release_dir, "echo", Path(directory, "state"), options, DEFAULT_START_TIMEOUT_S) as stack,
            _served(stack, Path(directory, "gateway") if gateway else None, max_client_in_flight) as server,
        ):
            release = Release.open(release_dir)
            bench = TenantFloods(
                server,
                release_headers(release),
                min(release.manifest.schemas),
                seconds=seconds,
                num_connections=connections,
                pause_s=pause_ms / 1_000,
                flood_rate=flood_rate,
                flood_gives_way=flood_gives_way,
            )
            found = _measure(console, stack, bench, floods)
    except ServerStartError as error:
        exit_with_error(error)
    except GatewayError as error:
        fail(error, "compare HAProxy's version with the one that docs/gateway.md names")
    except (TimeoutError, sqlite3.Error) as error:
        fail(error, "run it again on a machine with less to do")
    if output is not None:
        output.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
    if as_json_text:
        print_json(found)
    raise typer.Exit(0 if found["passed"] else EXIT_FAILED)


@contextmanager
def _served(stack: ServedStack, gateway_dir: Path | None, max_in_flight: int) -> Iterator[FloodedServer]:
    """What is measured: the server, behind a gateway if there is a directory for its files."""
    from llmstack.bench.measured_gateway import MeasuredGateway
    from llmstack.bench.tenant_flood import FloodedServer

    with ExitStack() as held:
        gateway = None
        if gateway_dir is not None:
            limits = Limits(max_client_in_flight=max_in_flight)
            gateway = held.enter_context(MeasuredGateway(gateway_dir, stack.urls, stack.ready_port, limits))
        yield FloodedServer(stack.urls, stack.pid, stack.state_dir, gateway)


def _measure(console: Console, stack: ServedStack, bench: TenantFloods, names: list[str] | None) -> dict[str, Any]:
    """All results for JSON; prints the tables."""
    from llm_policy.ledger.database import FILE_NAME, open_read_only
    from llm_policy.ledger.engine_queue import MAX_OPEN_S
    from llmstack.bench.machine import describe_machine
    from llmstack.bench.tenant_flood import FLOODS, as_json
    from llmstack.ledger.verification import verify

    bench.measure_alone()  # warms up
    results = [bench.measure_alone()]
    for flood in FLOODS:
        if not names or flood.name in names:
            console.print(f"measuring beside: {flood.name}", style="dim")
            results.append(bench.measure(flood))
    restarts = stack.readiness().get("restarts")
    with closing(open_read_only(stack.state_dir / FILE_NAME)) as connection:
        discrepancies = [str(each) for each in verify(connection, time.time_ns(), MAX_OPEN_S).discrepancies]
    console.print(_latency_table(results))
    console.print(_core_table(results))
    console.print("\n".join(line for result in results for line in _flooder_lines(result)))
    for failure, number in sum((Counter(result.failures) for result in results), Counter()).items():
        console.print(f"{number} requests of the polite tenant failed: {failure}", style="red", markup=False)
    console.print(f"{restarts} restarts of the server; {len(discrepancies)} discrepancies in the ledger")
    return {
        "machine": describe_machine(),
        "results": [as_json(result) for result in results],
        "restarts": restarts,
        "discrepancies": discrepancies,
        "passed": not (restarts or discrepancies or any(result.failures for result in results)),
    }


def _latency_table(results: list[FloodResult]) -> Table:
    table = Table(title="The polite tenant", box=SIMPLE_HEAD)
    for heading in ("beside", "requests"):
        table.add_column(heading, no_wrap=True)
    for heading in ("number", "p50 ms", "times alone", "p99 ms", "times alone"):
        table.add_column(heading, justify="right")
    for result in results:
        for kind, latency in result.latency.items():
            milliseconds = (f"{latency.p50_ms:,.1f}", f"{latency.p50_ratio:.1f}", f"{latency.p99_ms:,.1f}")
            number = str(latency.num_requests)
            table.add_row(result.flood, kind, number, *milliseconds, f"{latency.p99_ratio:.1f}")
    return table


def _core_table(results: list[FloodResult]) -> Table:
    table = Table(title="Success of the polite tenant, and the processor cores that each side used", box=SIMPLE_HEAD)
    table.add_column("beside", no_wrap=True)
    sides = list(results[0].cores)
    for heading in ("success", *sides):
        table.add_column(heading, justify="right")
    for result in results:
        cores = (f"{result.cores[who]:.2f}" for who in sides)
        table.add_row(result.flood, f"{result.success:.2%}", *cores)
    return table


def _flooder_lines(result: FloodResult) -> list[str]:
    """What the flooder got: by the ledger's rows, and as its clients saw it."""
    if not result.answers:
        return []
    seen = [f"  {kind}, seen by the clients: {_listed(counts)}" for kind, counts in result.answers.items() if counts]
    return [f"{result.flood}: {_listed(result.rows) or 'no rows'}", *seen]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items(), key=lambda item: -item[1]))
