"""Terminal output that the commands share: errors and JSON. The exit codes are those of `diff`: 0, 1 and 2."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import typer
from rich.console import Console

EXIT_FAILED = 1  # the command worked, and its answer is negative
EXIT_ERROR = 2  # the command could not work


def fail(error: object, next_step: str, exit_code: int = EXIT_ERROR) -> NoReturn:
    """Print the error and the next step on standard error, and exit with `exit_code`."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"error: {error}", style="red", markup=False)
    console.print(f"next:  {next_step}", markup=False)
    raise typer.Exit(exit_code)


def print_json(value: Any) -> None:
    """Write `value` to standard output as indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
