"""`llmstack bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.bench.beside import beside
from llmstack.cli.bench.engine import engine
from llmstack.cli.bench.flood import flood
from llmstack.cli.bench.gate import gate
from llmstack.cli.bench.load import load
from llmstack.cli.bench.openai import openai
from llmstack.cli.bench.options import MeasuredRelease
from llmstack.cli.bench.random_release import random_release
from llmstack.cli.bench.stream import stream
from llmstack.cli.bench.vllm import vllm
from llmstack.paths import DEFAULT_RELEASE_DIR

app = typer.Typer(help="Measure the policy's overhead and the speed of an engine.", invoke_without_command=True)
app.command()(load)
app.command()(gate)
app.command()(random_release)
app.command()(engine)
app.command()(beside)
app.command()(flood)
app.command()(stream)
app.command()(openai)
app.command()(vllm)


@app.callback()
def bench(
    context: typer.Context,
    release: MeasuredRelease = DEFAULT_RELEASE_DIR,
    output: Annotated[Path, typer.Option(help="JSON file to write the rows to.")] = Path("build/bench.json"),
) -> None:
    """Without a subcommand: measure what the policy adds to the no-op engine, beside models that pass through.

    Measures requests by perf_analyzer, then streams as `llmstack bench stream` does.
    """
    if context.invoked_subcommand is None:
        from llmstack.cli.bench.overhead import run_overhead_bench  # gRPC is slow to import

        run_overhead_bench(release, output)
