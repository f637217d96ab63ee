"""`llmstack bench flood`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llmstack.cli.bench.options import MeasuredRelease
from llmstack.cli.server_start import exit_with_error
from llmstack.cli.terminal import fail, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError

if TYPE_CHECKING:
    from llmstack.bench.flood import FloodMeasurement


def flood(
    release: MeasuredRelease = DEFAULT_RELEASE_DIR,
    seconds: Annotated[int, typer.Option(min=1, help="How long requests are sent.")] = 600,
    connections: Annotated[int, typer.Option(min=1, help="Number of connections.")] = 16,
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Also send wrong and malformed headers, and invalid input without a tenant.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send requests without headers to a server of the no-op engine: how much does its ledger grow in a day?

    Example: llmstack bench flood --seconds 120
    """
    from llm_policy.release.release import Release
    from llmstack.bench.flood import FloodError, flood_headers, measure_flood
    from llmstack.server.process import TritonServer

    console = Console(stderr=as_json, soft_wrap=True, highlight=False)
    engine = Release.open(release).manifest.engine
    try:
        with (
            tempfile.TemporaryDirectory(prefix="flood-") as directory,
            TritonServer(release, engine="echo", state_dir=Path(directory)) as server,
            Progress(console=console, transient=True) as progress,
        ):
            task = progress.add_task("sending", total=seconds)
            headers = flood_headers(engine.hash, engine.quantisation, is_mixed=mixed)
            found = measure_flood(
                server.http_url, Path(directory), headers, seconds, connections, lambda _: progress.advance(task)
            )
    except ServerStartError as error:
        exit_with_error(error)
    except (FloodError, OSError) as error:
        fail(error, "see the server's log")
    if as_json:
        print_json({**found._asdict(), "per_second": found.per_second, "bytes_per_day": found.bytes_per_day})
    else:
        console.print(_table(found))


def _table(found: FloodMeasurement) -> Table:
    table = Table("", "in the run", "in 24 hours", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    day_minutes = 1_440 / found.num_minutes
    table.add_row("seconds", f"{found.seconds:,.0f}", "86,400")
    table.add_row("requests", f"{found.num_requests:,}", f"{found.per_second * 86_400:,.0f}")
    table.add_row("requests per second", f"{found.per_second:,.0f}", f"{found.per_second:,.0f}")
    table.add_row("stored rows", f"{found.num_stored_rows:,}", f"{found.num_stored_rows * day_minutes:,.0f}")
    table.add_row(f"  of {found.stored_row_bytes:.0f} bytes")
    table.add_row("counts", f"{found.num_counts:,}", f"{found.num_counts * day_minutes:,.0f}")
    table.add_row(f"  of {found.count_bytes:.0f} bytes")
    table.add_row("ledger growth", f"{found.grown_bytes / 1e6:,.3f} MB", f"{found.bytes_per_day / 1e6:,.1f} MB")
    table.add_row("  if each was a row", "", f"{found.unsampled_bytes_per_day / 1e6:,.0f} MB")
    return table
