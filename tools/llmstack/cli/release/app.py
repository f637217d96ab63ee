"""`llmstack release`: publish, check, promote and roll back releases."""

from __future__ import annotations

import typer

from llmstack.cli.release.change import promote, rollback
from llmstack.cli.release.status import history, status
from llmstack.cli.release.store import diff, list_releases, publish

app = typer.Typer(
    no_args_is_help=True,
    help="Releases: publish candidates, check their promotion gates, promote one, roll back.",
)
app.command()(publish)
app.command("list")(list_releases)
app.command()(status)
app.command()(diff)
app.command()(history)
app.command()(promote)
app.command()(rollback)
