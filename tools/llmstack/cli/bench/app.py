"""`llmstack bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.bench.options import MeasuredRelease
from llmstack.cli.command_group import LazyCommand, lazy_group
from llmstack.paths import DEFAULT_RELEASE_DIR

_PACKAGE = "llmstack.cli.bench"

COMMANDS = {
    "load": LazyCommand(f"{_PACKAGE}.load:load", "Measure a release under load."),
    "gate": LazyCommand(f"{_PACKAGE}.gate:gate", "Measure the queue delay of a full batch."),
    "random-release": LazyCommand(f"{_PACKAGE}.random_release:random_release", "Write a release of random weights."),
    "engine": LazyCommand(f"{_PACKAGE}.engine:engine", "Measure the portable engine alone."),
    "beside": LazyCommand(f"{_PACKAGE}.beside:beside", "Measure how guides slow down the requests beside them."),
    "flood": LazyCommand(f"{_PACKAGE}.flood:flood", "Measure how fast rejected requests grow the ledger."),
    "stream": LazyCommand(f"{_PACKAGE}.stream:stream", "Measure what the policy adds to streams."),
    "openai": LazyCommand(f"{_PACKAGE}.openai:openai", "Measure what the OpenAI API adds."),
    "tenants": LazyCommand(f"{_PACKAGE}.tenants:tenants", "Measure polite tenants beside one that floods."),
    "vllm": LazyCommand(f"{_PACKAGE}.vllm:vllm", "Measure vLLM behind the policy and alone."),
}

app = typer.Typer(cls=lazy_group(COMMANDS), invoke_without_command=True)


@app.callback()
def bench(
    context: typer.Context,
    release: MeasuredRelease = DEFAULT_RELEASE_DIR,
    output: Annotated[Path, typer.Option(help="JSON file to write the rows to.")] = Path("build/bench.json"),
) -> None:
    """Measure what the policy adds to the no-op engine, beside models that pass through; subcommands measure the rest.

    Without a subcommand: requests by perf_analyzer, then streams as `llmstack bench stream` does.

    Example: llmstack bench --output build/bench.json
    """
    if context.invoked_subcommand is None:
        from llmstack.cli.bench.overhead import run_overhead_bench  # gRPC is slow to import

        run_overhead_bench(release, output)
