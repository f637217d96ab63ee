"""`llmstack`: one module per command, each with its own `app`."""

from __future__ import annotations

import typer

app = typer.Typer(name="llmstack", help="Operate the LLM serving stack.", no_args_is_help=True)

if __name__ == "__main__":
    app()
