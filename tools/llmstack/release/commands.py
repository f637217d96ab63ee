"""`llmstack release`: candidates, the way into service, and the way back."""

from __future__ import annotations

import typer

from llmstack.release.change_commands import promote, rollback
from llmstack.release.status_commands import history, status
from llmstack.release.store_commands import diff, list_releases, publish

app = typer.Typer(
    no_args_is_help=True,
    help="Releases: publish candidates, see what they lack, promote one, roll back.",
)
app.command()(publish)
app.command("list")(list_releases)
app.command()(status)
app.command()(diff)
app.command()(history)
app.command()(promote)
app.command()(rollback)
