"""`llmstack`: one module per command, each with its own `app`."""

from __future__ import annotations

import typer

from llmstack import demo, guides, manifest, ready, serve, tokenizer_info
from llmstack.bench import commands as bench
from llmstack.board import commands as board
from llmstack.capacity.command import capacity
from llmstack.dashboard.command import dashboard
from llmstack.doctor.command import doctor
from llmstack.door import command as door
from llmstack.embedded import commands as embedded_model
from llmstack.events import commands as events
from llmstack.image import commands as image
from llmstack.ledger import commands as ledger
from llmstack.proof.smoke_command import smoke
from llmstack.proof.warmup_command import warmup
from llmstack.release import commands as release

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
app.add_typer(door.app, name="door")
app.add_typer(events.app, name="events")
app.add_typer(image.app, name="image")
app.add_typer(ledger.app, name="ledger")
app.add_typer(release.app, name="release")
app.add_typer(guides.app, name="guides")
app.add_typer(manifest.app, name="manifest")
app.add_typer(tokenizer_info.app, name="tokenizer-info")
app.add_typer(embedded_model.app, name="embedded-model")

if __name__ == "__main__":
    app()
