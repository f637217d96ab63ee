"""`llmstack`: one module for each command or group of commands, imported when the command is called."""

from __future__ import annotations

from typing import Annotated

import typer

from llmstack.cli.command_group import LazyCommand, lazy_group


def _print_version(is_requested: bool) -> None:
    if is_requested:
        from llmstack.version import project_version

        typer.echo(f"llmstack {project_version()}")
        raise typer.Exit


COMMANDS = {
    "serve": LazyCommand("llmstack.cli.serve:serve", "Serve over HTTP, gRPC and the OpenAI API until Ctrl-C."),
    "ready": LazyCommand("llmstack.cli.ready:ready", "Print whether the service is ready, and if not, why."),
    "demo": LazyCommand("llmstack.cli.demo:demo", "Start a server and send it each kind of request."),
    "capacity": LazyCommand("llmstack.cli.capacity:capacity", "Compute how many requests fit into a GPU's memory."),
    "configuration": LazyCommand(
        "llmstack.cli.configuration:configuration", "List every option, environment variable and manifest key."
    ),
    "dashboard": LazyCommand("llmstack.cli.dashboard:dashboard", "Write the Grafana dashboard."),
    "doctor": LazyCommand("llmstack.cli.doctor:doctor", "Check this machine, the release and the configuration."),
    "headers": LazyCommand("llmstack.cli.headers:headers", "Print the headers of every request, in several forms."),
    "usage": LazyCommand("llmstack.cli.usage:usage", "Show what tenants used: rows, tokens and exact cost."),
    "warmup": LazyCommand(
        "llmstack.cli.release.warmup:warmup", "Send every task and schema, cold and warm; write warmup.json."
    ),
    "smoke": LazyCommand("llmstack.cli.release.smoke:smoke", "Run eval slices; write smoke.json."),
    "bench": LazyCommand("llmstack.cli.bench.app:app", "Measure the policy's overhead and an engine's speed."),
    "board": LazyCommand("llmstack.cli.board:app", "Serve the readiness board and manage its accounts."),
    "gateway": LazyCommand("llmstack.cli.gateway:app", "Write the configuration of HAProxy in front of the servers."),
    "openai": LazyCommand("llmstack.cli.openai:app", "Serve the OpenAI API in front of a server elsewhere."),
    "events": LazyCommand("llmstack.cli.events:app", "List, deliver and replay the events for the webhooks."),
    "image": LazyCommand("llmstack.cli.image:app", "Build and check the container image, through Docker."),
    "ledger": LazyCommand("llmstack.cli.ledger:app", "Report, export, archive and verify requests and costs."),
    "tenant": LazyCommand("llmstack.cli.tenant:app", "Manage tenants: API keys, budgets and rates."),
    "release": LazyCommand("llmstack.cli.release.app:app", "Publish, promote and roll back releases."),
    "guides": LazyCommand("llmstack.cli.guides:app", "Explain and measure guides."),
    "manifest": LazyCommand("llmstack.cli.manifest:app", "Write, verify and show a release's manifest."),
    "tokenizer-info": LazyCommand("llmstack.cli.tokenizer_info:app", "Build or check tokenizer_info.json."),
}

app = typer.Typer(name="llmstack", no_args_is_help=True, cls=lazy_group(COMMANDS))


@app.callback()
def llmstack(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Operate the LLM serving stack.

    Example: llmstack serve, and in another terminal llmstack ready
    """
