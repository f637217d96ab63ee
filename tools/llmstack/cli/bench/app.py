"""`llmstack bench`: what is measured and how it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmstack.cli.bench.gate import gate
from llmstack.cli.bench.load import load
from llmstack.cli.bench.random_release import random_release
from llmstack.paths import DEFAULT_RELEASE_DIR

app = typer.Typer(help="Measure what the policy costs and how fast an engine is.", invoke_without_command=True)
app.command()(load)
app.command()(gate)
app.command()(random_release)

ReleaseOption = Annotated[Path, typer.Option("--release", help="The release that is measured.")]


@app.callback()
def bench(
    context: typer.Context,
    release: ReleaseOption = DEFAULT_RELEASE_DIR,
    output: Annotated[Path, typer.Option(help="Where the rows go as JSON.")] = Path("build/bench.json"),
) -> None:
    """Measure. Without a subcommand: the policy's overhead against the no-op engine, beside a pass-through ensemble."""
    if context.invoked_subcommand is None:
        from llmstack.bench.overhead import measure_overhead  # gRPC takes a while to import

        measure_overhead(release, output)


@app.command()
def engine(
    release: ReleaseOption = DEFAULT_RELEASE_DIR,
    concurrency: Annotated[list[int], typer.Option(min=1, help="Sequences at a time; repeat for more.")] = [1, 4],  # noqa: B006
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 128,
    completion_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each completion.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the table shows medians.")] = 5,
    profile: Annotated[
        bool, typer.Option(help="Print where a step's time goes instead, at the first concurrency.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Measure the portable engine alone, in this process: tokens per second and time to first token.

    Example: llmstack bench engine --concurrency 1 --concurrency 4
    """
    from llmstack.bench.engine import measure_visibly, print_profile  # torch takes seconds to import

    if profile:
        print_profile(release, concurrency[0], prompt_tokens, completion_tokens)
        return
    measure_visibly(release, concurrency, prompt_tokens, completion_tokens, rounds, as_json)
