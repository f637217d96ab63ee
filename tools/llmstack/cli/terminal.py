"""Terminal output that the commands share: errors, JSON and tables. The exit codes are those of `diff`: 0, 1 and 2."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

EXIT_FAILED = 1  # the command worked, and its answer is negative
EXIT_ERROR = 2  # the command could not work
_ANY_WIDTH, _FOLDED_NAME_WIDTH = 10_000, 14


def fail(error: object, next_step: str, exit_code: int = EXIT_ERROR) -> NoReturn:
    """Print the error and the next step on standard error, and exit with `exit_code`."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"error: {error}", style="red", markup=False)
    console.print(f"next:  {next_step}", markup=False)
    raise typer.Exit(exit_code)


def print_json(value: Any) -> None:
    """Write `value` to standard output as indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(table: Table) -> None:
    """Columns that may wrap fold on a narrow terminal. No digit of the others is cut: the terminal wraps the lines."""
    console = Console()
    folding = [column for column in table.columns if not column.no_wrap]
    for column in folding:
        column.max_width = _FOLDED_NAME_WIDTH
    needed_width = Measurement.get(console, console.options.update(width=_ANY_WIDTH), table).minimum
    for column in folding:
        column.max_width = None
    console.width = max(console.width, needed_width)
    console.print(table)
