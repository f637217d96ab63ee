"""`llmstack ledger`: report, export, verify, and what writing costs. They only read, so a server may be running."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from llm_policy.ledger.database import FILE_NAME, NewerLedger, open_to_read
from llm_policy.ledger.engine_queue import MAX_OPEN_S
from llmstack.cli.terminal import DIFFERENT, fail, print_json
from llmstack.ledger.export import WRITERS, count_rows, pages
from llmstack.ledger.money import dollar_text
from llmstack.ledger.report import GROUPS, Period, Report, Sums, make_report
from llmstack.ledger.verification import Verification, verify
from llmstack.ledger.write_bench import fill, measure
from llmstack.paths import DEFAULT_STATE_DIR

# The parent looks each second; a busy machine may be late.
_SWEEP_GRACE_S = 15
_SHOWN_HASH_CHARS = 19

GroupName = Enum("GroupName", {name: name for name in GROUPS}, type=str)  # type: ignore[misc]
FormatName = Enum("FormatName", {name: name for name in WRITERS}, type=str)  # type: ignore[misc]

StateDir = Annotated[Path, typer.Option(envvar="LLMSTACK_STATE_DIR", help="The server's state directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
WithCanary = Annotated[bool, typer.Option("--canary", help="With the server's own canary requests.")]
Since = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="From this day on (UTC).", show_default=False)
]
Until = Annotated[
    datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Up to this day, included.", show_default=False)
]

app = typer.Typer(help="What was asked, what it cost, and the proof that the books agree.", no_args_is_help=True)


@app.command()
def report(
    by: Annotated[list[GroupName] | None, typer.Option(help="Give it several times to go deeper.")] = None,
    since: Since = None,
    until: Until = None,
    canary: WithCanary = False,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Requests, tokens and cost by day (UTC), tenant, task, engine, schema or code of refusal. A row of a batch counts.

    Example: llmstack ledger report --by day --by tenant --since 2026-11-01
    """
    names = list(dict.fromkeys(name.value for name in by)) if by else ["day"]
    with _ledger(state_dir) as connection, Console(stderr=True).status("adding up"):
        made = make_report(connection, names, _period(since, until), with_canary=canary)
    if as_json:
        print_json(made.as_json())
    else:
        Console().print(_report_table(made))


@app.command()
def export(
    output_format: Annotated[FormatName, typer.Option("--format", help="What to write.")] = FormatName.csv,  # type: ignore[attr-defined]
    output: Annotated[
        Path | None, typer.Option(help="The file to write; standard output without it.", show_default=False)
    ] = None,
    since: Since = None,
    until: Until = None,
    canary: WithCanary = False,
    state_dir: StateDir = DEFAULT_STATE_DIR,
) -> None:
    """Write every row: money in US dollars as exact decimals, times in UTC.

    Example: llmstack ledger export --format parquet --output november.parquet --since 2026-11-01 --until 2026-11-30
    """
    if output is None and output_format.value == "parquet" and sys.stdout.isatty():
        fail("parquet is no text", "give --output, or pipe it into a program")
    period = _period(since, until)
    with _ledger(state_dir) as connection, _opened(output) as file:
        num_rows = count_rows(connection, period, with_canary=canary)
        with Progress(console=Console(stderr=True), transient=True, disable=output is None) as progress:
            task = progress.add_task("exporting", total=num_rows)
            try:
                WRITERS[output_format.value](
                    pages(connection, period, with_canary=canary), file, lambda number: progress.advance(task, number)
                )
            except ImportError:
                fail(
                    "pyarrow is not installed, or not one for numpy 1",
                    "`pip install pyarrow==25.0.1`, or --format csv or jsonl",
                )
    if output is not None:
        typer.echo(f"{num_rows} rows: {output}", err=True)


@app.command("verify")
def verify_ledger(
    max_open_s: Annotated[float, typer.Option(min=0, help="How long a row may wait for its end.")] = MAX_OPEN_S
    + _SWEEP_GRACE_S,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Prove that rows, totals, alerts and deliveries agree to the request and the nano-dollar. Exits with 1 if not.

    Example: llmstack ledger verify --state-dir /var/lib/llmstack
    """
    with _ledger(state_dir) as connection, Console(stderr=True).status("comparing"):
        result = verify(connection, time.time_ns(), max_open_s)
    if as_json:
        print_json({**result._asdict(), "findings": [finding._asdict() for finding in result.findings]})
    else:
        _print_verification(result)
    if result.findings:
        raise typer.Exit(DIFFERENT)


@app.command()
def bench(
    rows: Annotated[int, typer.Option(min=0, help="Rows that the ledger has before; your server's may be long.")] = 0,
    writes: Annotated[int, typer.Option(min=100, help="Rows that each process writes.")] = 5_000,
    directory: Annotated[
        Path | None, typer.Option(help="On the disk to measure; the temporary directory's without it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what the ledger costs a request: one row entered, then settled, by one process and by two at once.

    It writes a ledger of its own and deletes it.

    Example: llmstack ledger bench --rows 1000000 --directory /var/lib/llmstack
    """
    place = (directory or Path(tempfile.gettempdir())).absolute()
    try:
        with (
            tempfile.TemporaryDirectory(dir=place, prefix="ledger-bench-") as own,
            Console(stderr=True).status("writing"),
        ):
            fill(Path(own), rows)
            costs = [cost for num_writers in (1, 2) for cost in measure(Path(own), writes, num_writers)]
    except (OSError, sqlite3.Error, EOFError) as error:
        fail(f"{place}: {error}", "give --directory a place that can be written")
    if as_json:
        print_json({"directory": str(place), "num_rows": rows, "costs": [cost._asdict() for cost in costs]})
        return
    table = Table("processes", "transaction", "median µs", "p99 µs", box=None)
    for cost in costs:
        table.add_row(str(cost.num_writers), cost.call, f"{cost.median_us:.0f}", f"{cost.p99_us:.0f}")
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"in {place}, on a ledger of {rows:,} rows:", markup=False)
    console.print(table)


def _report_table(made: Report) -> Table:
    table = Table(*made.group_names, box=None, show_footer=True)
    for column, name in zip(table.columns, made.group_names, strict=True):
        column.footer, column.no_wrap = ("all" if name == made.group_names[0] else ""), True
    cells = _cells(made.total)
    for title, footer in cells.items():
        table.add_column(title, footer=footer, justify="right", no_wrap=True)
    for key, sums in made.groups:
        table.add_row(*(escape(_shown(text)) for text in key), *_cells(sums).values())
    return table


def _cells(sums: Sums) -> dict[str, str]:
    breaches = sums.queue_delay_breaches + sums.cost_breaches + sums.schema_violations
    return {
        "rows": f"{sums.num_rows:,}",
        "settled": f"{sums.settled:,}",
        "refused": f"{sums.refused:,}",
        "cancelled": f"{sums.cancelled:,}",
        "lost": f"{sums.lost:,}",
        "open": f"{sums.open:,}",
        "tokens in": f"{sums.num_prompt_tokens:,}",
        "out": f"{sums.num_completion_tokens:,}",
        "breaches": f"{breaches:,}",
        "US dollars": dollar_text(sums.cost_nano_usd),
    }


def _shown(text: str) -> str:
    if not text:
        return "-"
    return text[:_SHOWN_HASH_CHARS] if text.startswith("sha256:") else text


def _print_verification(result: Verification) -> None:
    console = Console()
    for text in result.not_compared:
        console.print(f"[yellow]not compared:[/] {escape(text)}", highlight=False)
    if not result.findings:
        console.print(
            f"[green]✔[/] {result.num_rows:,} rows, {result.num_events:,} events and "
            f"{dollar_text(result.cost_nano_usd)} US dollars agree",
            highlight=False,
        )
        return
    table = Table("differs", "in the rows", "should be", box=None)
    for finding in result.findings:
        table.add_row(*(escape(str(value)) for value in finding))
    console.print(table)
    console.print(
        "next: rows that stay open are closed by the next `llmstack serve`; anything else is a bug: keep this ledger.db"
    )


def _period(since: datetime | None, until: datetime | None) -> Period:
    if since is not None and until is not None and until < since:
        fail(f"--until {until:%Y-%m-%d} is before --since {since:%Y-%m-%d}", "exchange them")
    first, last = Period()
    return Period(
        first if since is None else _utc_ns(since), last if until is None else _utc_ns(until + timedelta(days=1))
    )


def _utc_ns(day: datetime) -> int:
    return int(day.replace(tzinfo=timezone.utc).timestamp()) * 1_000_000_000


@contextmanager
def _ledger(state_dir: Path) -> Iterator[sqlite3.Connection]:
    """The ledger in `state_dir`, to read; exits when there is none or it can't be read."""
    path = state_dir / FILE_NAME
    if not path.is_file():
        fail(f"{state_dir} has no {FILE_NAME}", "give --state-dir (or LLMSTACK_STATE_DIR) the server's state directory")
    try:
        with closing(open_to_read(path)) as connection:
            yield connection
    except NewerLedger as error:
        fail(f"{state_dir}: {error}", error.next_step)
    except sqlite3.Error as error:
        fail(f"{path}: {error}", "see that you may read the file and those beside it, and write the directory")


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that appears under its name once it is whole."""
    if output is None:
        yield sys.stdout.buffer
        return
    try:
        with tempfile.NamedTemporaryFile(dir=output.absolute().parent, prefix=f".{output.name}.", delete=False) as file:
            try:
                yield file  # type: ignore[misc]
                file.flush()
                Path(file.name).chmod(0o644)
                Path(file.name).replace(output)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(file.name)  # noqa: PTH108 - it may be gone
                raise
    except OSError as error:
        fail(f"{output}: {error.strerror}", "make room, or give --output a place that can be written")
