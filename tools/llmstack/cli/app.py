"""`llmstack`: one module for each command or group of commands."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from llmstack.cli import (
    board,
    demo,
    events,
    gateway,
    guides,
    image,
    ledger,
    manifest,
    ready,
    serve,
    tenant,
    tokenizer_info,
)
from llmstack.cli.bench import app as bench
from llmstack.cli.capacity import capacity
from llmstack.cli.configuration import configuration
from llmstack.cli.dashboard import dashboard
from llmstack.cli.doctor import doctor
from llmstack.cli.headers import headers
from llmstack.cli.openai import app as openai
from llmstack.cli.release import app as release
from llmstack.cli.release.smoke import smoke
from llmstack.cli.release.warmup import warmup
from llmstack.cli.usage import usage


def _print_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"llmstack {importlib.metadata.version('llm-serving-stack')}")
        raise typer.Exit


app = typer.Typer(name="llmstack", no_args_is_help=True)


@app.callback()
def llmstack(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Operate the LLM serving stack."""


app.command()(serve.serve)
app.command()(ready.ready)
app.command()(demo.demo)
app.command()(capacity)
app.command()(configuration)
app.command()(dashboard)
app.command()(doctor)
app.command()(headers)
app.command()(usage)
app.command()(warmup)
app.command()(smoke)
app.add_typer(bench.app, name="bench")
app.add_typer(board.app, name="board")
app.add_typer(gateway.app, name="gateway")
app.add_typer(openai, name="openai")
app.add_typer(events.app, name="events")
app.add_typer(image.app, name="image")
app.add_typer(ledger.app, name="ledger")
app.add_typer(tenant.app, name="tenant")
app.add_typer(release.app, name="release")
app.add_typer(guides.app, name="guides")
app.add_typer(manifest.app, name="manifest")
app.add_typer(tokenizer_info.app, name="tokenizer-info")
