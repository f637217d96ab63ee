"""What commands print when they can't go on, and how they print JSON. Exit codes are those of `diff`: 0 same, 1, 2."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import typer
from rich.console import Console

DIFFERENT = 1
CANT_TELL = 2


def fail(error: object, next_step: str, exit_code: int = CANT_TELL) -> NoReturn:
    """Say what is wrong and what to do next on standard error, and exit with 2, or as told."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"error: {error}", style="red", markup=False)
    console.print(f"next:  {next_step}", markup=False)
    raise typer.Exit(exit_code)


def print_json(value: Any) -> None:
    """Write `value` to standard output as indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
