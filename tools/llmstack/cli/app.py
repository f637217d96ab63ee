"""`llmstack`: one module per command, each with its own `app`."""

from __future__ import annotations

import typer

from llmstack.cli import board, demo, events, guides, image, ledger, ready, serve
from llmstack.cli import gateway as gateway
from llmstack.cli.bench import app as bench
from llmstack.cli.capacity import capacity
from llmstack.cli.dashboard import dashboard
from llmstack.cli.doctor import doctor
from llmstack.cli.release import app as release
from llmstack.cli.release.smoke import smoke
from llmstack.cli.release.warmup import warmup
from llmstack.release import manifest_file as manifest
from llmstack.tokenizer import tokenizer_info

app = typer.Typer(name="llmstack", help="Operate the LLM serving stack.", no_args_is_help=True)
app.command()(serve.serve)
app.command()(ready.ready)
app.command()(demo.demo)
app.command()(capacity)
app.command()(dashboard)
app.command()(doctor)
app.command()(warmup)
app.command()(smoke)
app.add_typer(bench.app, name="bench")
app.add_typer(board.app, name="board")
app.add_typer(gateway.app, name="gateway")
app.add_typer(events.app, name="events")
app.add_typer(image.app, name="image")
app.add_typer(ledger.app, name="ledger")
app.add_typer(release.app, name="release")
app.add_typer(guides.app, name="guides")
app.add_typer(manifest.app, name="manifest")
app.add_typer(tokenizer_info.app, name="tokenizer-info")
