"""`llmstack ledger`: report, export, rejections, verify, archive and bench. All run beside a server."""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from llmstack.cli.command_group import CommandGroup
from llmstack.cli.ledger_connection import ledger_connection
from llmstack.cli.period import Since, Until, parse_period, utc_ns
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.ledger.export import WRITERS
from llmstack.ledger.report import GROUPS
from llmstack.paths import DEFAULT_STATE_DIR

if TYPE_CHECKING:
    from llmstack.ledger.archive import Month
    from llmstack.ledger.archive_reader import ArchiveReader
    from llmstack.ledger.rejections import Rejections
    from llmstack.ledger.report import Report, Sums
    from llmstack.ledger.verification import Verification
    from llmstack.ledger.write_bench import WriteCost

# The parent closes overdue rows every second, and later on a busy machine.
_SWEEP_GRACE_S = 15
_SHOWN_HASH_CHARS = 19
# Younger rows may still be settled late.
_MIN_ARCHIVE_AGE_S = 86_400

GroupName = Enum("GroupName", {name: name for name in GROUPS}, type=str)  # type: ignore[misc]
FormatName = Enum("FormatName", {name: name for name in WRITERS}, type=str)  # type: ignore[misc]

StateDir = Annotated[Path, typer.Option(envvar="LLMSTACK_STATE_DIR", help="The server's state directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WithCanary = Annotated[bool, typer.Option("--canary", help="Include the server's own canary requests.")]
ArchiveDir = Annotated[
    Path | None,
    typer.Option("--archive", help="The directory of archived rows; STATE_DIR/archive by default.", show_default=False),
]
NoArchive = Annotated[bool, typer.Option("--no-archive", help="Leave archived rows out.")]

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Report and export requests and their cost, and verify the ledger's consistency."
    "\n\nExample: llmstack ledger report --by day",
)


@app.command()
def report(
    by: Annotated[list[GroupName] | None, typer.Option(help="Group by this; repeat for subgroups.")] = None,
    since: Since = None,
    until: Until = None,
    canary: WithCanary = False,
    archive: ArchiveDir = None,
    no_archive: NoArchive = False,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Sum requests, tokens and cost by day (UTC), tenant, task, engine, schema or error code. Each batch row counts.

    Archived rows count too.

    Example: llmstack ledger report --by day --by tenant --since 2026-11-01
    """
    from llmstack.ledger.report import make_report

    names = list(dict.fromkeys(name.value for name in by)) if by else ["day"]
    period, reader = parse_period(since, until), None if no_archive else _archive(archive, state_dir)
    with _ledger(state_dir) as connection, _archive_errors(), Console(stderr=True).status("adding up"):
        result = make_report(connection, names, period, with_canary=canary, archive=reader)
    if as_json:
        print_json(result.as_json())
    else:
        Console().print(_report_table(result))
        _note_only_counted(result.total.only_counted)


@app.command()
def export(
    output_format: Annotated[FormatName, typer.Option("--format", help="Output format.")] = FormatName.csv,  # type: ignore[attr-defined]
    output: Annotated[
        Path | None, typer.Option(help="Output file; standard output by default.", show_default=False)
    ] = None,
    since: Since = None,
    until: Until = None,
    canary: WithCanary = False,
    archive: ArchiveDir = None,
    no_archive: NoArchive = False,
    state_dir: StateDir = DEFAULT_STATE_DIR,
) -> None:
    """Write every row, archived ones too: money in US dollars as exact decimals, times in UTC.

    Example: llmstack ledger export --format parquet --output november.parquet --since 2026-11-01 --until 2026-11-30
    """
    from llmstack.ledger.export import count_rows, read_pages
    from llmstack.ledger.rejections import count_rejections
    from llmstack.ledger.row_stream import count_all_rows, read_all_pages

    if output is None and output_format.value == "parquet" and sys.stdout.isatty():
        fail("parquet is a binary format", "give --output, or pipe it into a program")
    period = parse_period(since, until)
    num_rows = 0
    with _ledger(state_dir) as connection, _output_file(output) as file:
        if no_archive:
            num_expected = count_rows(connection, period, with_canary=canary)
            pages = read_pages(connection, period, with_canary=canary)
        else:
            num_expected = count_all_rows(connection, period, with_canary=canary)
            pages = read_all_pages(connection, _archive(archive, state_dir), period, with_canary=canary)
        with _progress(is_shown=output is not None) as show, _archive_errors("--format csv or jsonl and --no-archive"):

            def on_page(number: int) -> None:
                nonlocal num_rows
                num_rows += number
                show("exporting", num_rows, num_expected)

            WRITERS[output_format.value](pages, file, on_page)
        num_only_counted = sum(count_rejections(connection, ["code"], period).values())
    if output is not None:
        typer.echo(f"{num_rows} rows: {output}", err=True)
    _note_only_counted(num_only_counted)


@app.command()
def rejections(
    since: Since = None,
    until: Until = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Show rejected rows that are only counted, by minute: their sender named no tenant or not this engine.

    After a week they are counted by day.

    Example: llmstack ledger rejections --since 2026-11-01
    """
    from llmstack.ledger.rejections import read_rejections

    with _ledger(state_dir) as connection:
        found = read_rejections(connection, parse_period(since, until))
    if as_json:
        print_json({"rejections": [each.as_json() for each in found]})
    else:
        Console().print(_rejection_table(found))


@app.command("verify")
def verify_ledger(
    max_open_s: Annotated[
        float | None,
        typer.Option(
            min=0, help="How long a row may be open.", show_default=f"{_SWEEP_GRACE_S} s longer than the server's limit"
        ),
    ] = None,
    archive: ArchiveDir = None,
    no_archive: NoArchive = False,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Verify that the ledger's rows agree with its totals, alerts and deliveries, to the request and the nano-dollar.

    Archived rows are read again and compared with the sums that the ledger has of them.

    Exits with 1 if they do not.

    Example: llmstack ledger verify --state-dir /var/lib/llmstack
    """
    from llm_policy.ledger.engine_queue import MAX_OPEN_S
    from llmstack.ledger.verification import verify

    with _ledger(state_dir) as connection, Console(stderr=True).status("comparing"):
        reader = None if no_archive else _archive(archive, state_dir)
        limit_s = MAX_OPEN_S + _SWEEP_GRACE_S if max_open_s is None else max_open_s
        result = verify(connection, time.time_ns(), limit_s, reader)
    if as_json:
        print_json(result.as_json())
    else:
        _print_verification(result)
    if result.discrepancies:
        raise typer.Exit(EXIT_FAILED)


@app.command("archive")
def archive_rows(
    before: Annotated[
        datetime,
        typer.Option(formats=["%Y-%m-%d"], help="Archive rows admitted before this day (UTC), yesterday at most."),
    ],
    directory: Annotated[
        Path | None,
        typer.Option(help="Where the files are written; STATE_DIR/archive by default.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be archived.")] = False,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: AsJson = False,
) -> None:
    """Move closed rows into Parquet files, one for each month. Each is read back and compared before rows are removed.

    Run it beside a server or without one. An interrupted run loses nothing and counts nothing twice: run it again.

    Example: llmstack ledger archive --before 2026-11-01
    """
    from llm_policy.ledger.budget_window import date_of, day_of
    from llmstack.ledger.archive import find_months, unfinished_files
    from llmstack.ledger.archive_reader import DIRECTORY_NAME

    before_day = day_of(utc_ns(before))
    if utc_ns(before) > time.time_ns() - _MIN_ARCHIVE_AGE_S * 1_000_000_000:
        yesterday = date_of(day_of(time.time_ns()) - 1)
        fail(
            f"rows of {before:%Y-%m-%d} or the day before it may still be settled", f"give --before {yesterday} at most"
        )
    target = (directory or state_dir / DIRECTORY_NAME).absolute()
    if dry_run:
        with _ledger(state_dir) as connection:
            months = find_months(connection, before_day)
            finished = [file.name for file in unfinished_files(connection)]
        files = [""] * len(months)
    else:
        finished, months, files = _archive_months(state_dir, target, before_day)
    if as_json:
        print_json(
            {
                "before": f"{before:%Y-%m-%d}",
                "directory": str(target),
                "is_dry_run": dry_run,
                "finished": finished,
                "months": [{**month.as_json(), "file": file} for month, file in zip(months, files, strict=True)],
            }
        )
        return
    for name in finished:
        typer.echo(f"{'would finish' if dry_run else 'finished'} an interrupted run: {name}", err=True)
    Console().print(_archive_table(months, files))


def _archive_months(state_dir: Path, directory: Path, before_day: int) -> tuple[list[str], list[Month], list[str]]:
    """Archive; the files of interrupted runs that were finished, the months and their files."""
    from llm_policy.ledger.database import FILE_NAME, open_database
    from llmstack.ledger.archive import Archiver, archive_lock, find_months, unfinished_files

    next_step = "free disk space, and check that you may write ledger.db*; an interrupted run is finished by the next"
    with (
        ledger_connection(
            state_dir, lambda: open_database(state_dir / FILE_NAME, must_exist=True), next_step
        ) as connection,
        _archive_errors("--dry-run"),
        _progress(is_shown=True) as show,
    ):
        try:
            with archive_lock(state_dir):
                archiver = Archiver(connection, directory, show)
                unfinished = unfinished_files(connection)
                for file in unfinished:
                    archiver.finish(file)
                months = find_months(connection, before_day)
                files = [archiver.archive(month).name for month in months]
        except OSError as error:
            fail(f"{directory}: {error.strerror or error}", "free disk space, or give a writable --directory")
    return [file.name for file in unfinished], months, files


@app.command()
def bench(
    rows: Annotated[int, typer.Option(min=0, help="Rows in the ledger before the measurement.")] = 0,
    writes: Annotated[int, typer.Option(min=100, help="Rows that each process writes.")] = 5_000,
    directory: Annotated[
        Path | None, typer.Option(help="A directory on the disk to measure; by default the temporary directory.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the ledger's cost per request: enter and settle one row, with one process and with two concurrent ones.

    The bench writes a temporary ledger and deletes it.

    Example: llmstack ledger bench --rows 1000000 --directory /var/lib/llmstack
    """
    from llmstack.ledger.write_bench import run_write_bench

    parent = (directory or Path(tempfile.gettempdir())).absolute()
    try:
        with Console(stderr=True).status("writing"):
            costs = run_write_bench(parent, rows, writes)
    except (OSError, sqlite3.Error, EOFError) as error:
        fail(f"{parent}: {error}", "set --directory to a writable directory")
    if as_json:
        print_json({"directory": str(parent), "num_rows": rows, "costs": [cost._asdict() for cost in costs]})
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"in {parent}, on a ledger of {rows:,} rows:", markup=False)
    console.print(_cost_table(costs))


def _report_table(result: Report) -> Table:
    table = Table(*result.group_names, box=None, show_footer=True)
    for column, name in zip(table.columns, result.group_names, strict=True):
        column.footer, column.no_wrap = ("all" if name == result.group_names[0] else ""), True
    cells = _cells(result.total)
    for title, footer in cells.items():
        table.add_column(title, footer=footer, justify="right", no_wrap=True)
    for key, sums in result.groups:
        table.add_row(*(escape(_short_key(text)) for text in key), *_cells(sums).values())
    return table


def _archive_table(months: list[Month], files: list[str]) -> Table:
    from llmstack.ledger.money import dollar_text

    table = Table("month", box=None, show_footer=True)
    table.columns[0].footer = "all"
    numbers = {
        "rows": [month.num_rows for month in months],
        "tokens in": [month.num_prompt_tokens for month in months],
        "out": [month.num_completion_tokens for month in months],
    }
    for title, values in numbers.items():
        table.add_column(title, footer=f"{sum(values):,}", justify="right", no_wrap=True)
    total = dollar_text(sum(month.cost_nano_usd for month in months))
    table.add_column("US dollars", footer=total, justify="right", no_wrap=True)
    table.add_column("file", overflow="fold")
    for month, file, *values in zip(months, files, *numbers.values(), strict=True):
        table.add_row(month.month, *(f"{value:,}" for value in values), dollar_text(month.cost_nano_usd), escape(file))
    return table


def _rejection_table(found: list[Rejections]) -> Table:
    table = Table("minute (UTC)", "code", "task", "engine", box=None, show_footer=True)
    table.columns[0].footer = "all"
    table.add_column("rows", footer=f"{sum(each.num_rows for each in found):,}", justify="right")
    for each in found:
        keys = (each.as_json()["minute"], each.code, each.task, each.engine_hash)
        table.add_row(*(escape(_short_key(text)) for text in keys), f"{each.num_rows:,}")
    return table


def _note_only_counted(number: int) -> None:
    if number:
        typer.echo(f"{number:,} rejected rows are only counted: see `llmstack ledger rejections`", err=True)


def _cells(sums: Sums) -> dict[str, str]:
    from llmstack.ledger.money import dollar_text

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


def _short_key(text: str) -> str:
    if not text:
        return "-"
    return text[:_SHOWN_HASH_CHARS] if text.startswith("sha256:") else text


def _cost_table(costs: list[WriteCost]) -> Table:
    table = Table("processes", "transaction", "median µs", "p99 µs", box=None)
    for cost in costs:
        table.add_row(str(cost.num_writers), cost.call, f"{cost.median_us:.0f}", f"{cost.p99_us:.0f}")
    return table


def _print_verification(result: Verification) -> None:
    from llmstack.ledger.money import dollar_text

    console = Console()
    for text in result.not_compared:
        console.print(f"[yellow]not compared:[/] {escape(text)}", highlight=False)
    if not result.discrepancies:
        console.print(
            f"[green]✔[/] the ledger agrees with its totals, alerts and deliveries: {result.num_rows:,} rows, "
            f"{result.num_archived:,} archived, {result.num_only_counted:,} rejected ones only counted, "
            f"{result.num_events:,} events, "
            f"{dollar_text(result.cost_nano_usd)} US dollars",
            highlight=False,
        )
        return
    table = Table("differs", "in the rows", "should be", box=None)
    for discrepancy in result.discrepancies:
        table.add_row(*(escape(str(value)) for value in discrepancy))
    console.print(table)
    console.print(
        "next: the next `llmstack serve` closes rows that stay open; anything else is a bug: keep this ledger.db"
    )


def _ledger(state_dir: Path) -> AbstractContextManager[sqlite3.Connection]:
    """A read-only connection to the ledger in `state_dir`; exits when it is missing or can't be read."""
    from llm_policy.ledger.database import FILE_NAME, open_read_only

    next_step = "check that you may read ledger.db* and write the directory"
    return ledger_connection(state_dir, lambda: open_read_only(state_dir / FILE_NAME), next_step)


@contextmanager
def _output_file(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that replaces `output` when it is complete; exits when it can't be written."""
    from llmstack.ledger.export import replace_when_complete

    if output is None:
        yield sys.stdout.buffer
        return
    try:
        with replace_when_complete(output) as file:
            yield file
    except OSError as error:
        fail(f"{output}: {error.strerror}", "free disk space, or give --output a writable path")


@contextmanager
def _progress(*, is_shown: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar, set by calling the function with what is done, how much of it, and its total."""
    with Progress(console=Console(stderr=True), transient=True, disable=not is_shown) as progress:
        task = progress.add_task("", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def _archive(directory: Path | None, state_dir: Path) -> ArchiveReader:
    from llmstack.ledger.archive_reader import DIRECTORY_NAME, ArchiveReader

    return ArchiveReader(directory or state_dir / DIRECTORY_NAME)


@contextmanager
def _archive_errors(alternative: str = "--no-archive") -> Iterator[None]:
    """Exits when archived rows can't be read or written; `alternative` works without pyarrow."""
    from llmstack.ledger.archive_reader import INSTALL_PYARROW, ArchiveError

    try:
        yield
    except ArchiveError as error:
        fail(error, error.next_step)
    except ImportError:
        text, command = INSTALL_PYARROW.split(": ")
        fail(text, f"{command}, or use {alternative}")
