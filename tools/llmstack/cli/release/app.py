"""`llmstack release`: create, publish, check, promote and roll back releases."""

from __future__ import annotations

import typer

from llmstack.cli.command_group import LazyCommand, lazy_group

_PACKAGE = "llmstack.cli.release"

COMMANDS = {
    "create": LazyCommand(f"{_PACKAGE}.create:create", "Make a release from a Hugging Face model directory."),
    "publish": LazyCommand(f"{_PACKAGE}.store:publish", "Check a release and register it as a candidate."),
    "list": LazyCommand(f"{_PACKAGE}.store:list_releases", "List every release with its state and its check runs."),
    "status": LazyCommand(f"{_PACKAGE}.status:status", "Show what is in service; with NAME, what a release lacks."),
    "diff": LazyCommand(f"{_PACKAGE}.store:diff", "Compare two releases by manifest key and by file."),
    "history": LazyCommand(f"{_PACKAGE}.status:history", "List every promotion and rollback, the newest first."),
    "promote": LazyCommand(f"{_PACKAGE}.change:promote", "Put a release into service once every gate has passed."),
    "rollback": LazyCommand(f"{_PACKAGE}.change:rollback", "Return to what the last promotion replaced."),
}

app = typer.Typer(
    cls=lazy_group(COMMANDS),
    no_args_is_help=True,
    help="Releases: create and publish candidates, check their promotion gates, promote one, roll back.\n\n"
    "Example: llmstack release status",
)
