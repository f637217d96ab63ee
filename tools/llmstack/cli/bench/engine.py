"""`llmstack bench engine`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llmstack.cli.bench.options import MeasuredRelease
from llmstack.cli.terminal import fail, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR

if TYPE_CHECKING:  # torch takes seconds to import
    from llmstack.bench.engine import EngineMeasurement, EngineWorkload


def engine(
    release: MeasuredRelease = DEFAULT_RELEASE_DIR,
    concurrency: Annotated[list[int], typer.Option(min=1, help="Number of sequences; repeatable.")] = [1, 4],  # noqa: B006
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Number of tokens per prompt.")] = 128,
    completion_tokens: Annotated[int, typer.Option(min=2, help="Number of tokens per completion.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds; the table shows medians.")] = 5,
    profile: Annotated[
        bool, typer.Option(help="Instead print a profile of torch operators, at the first concurrency.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Measure the portable engine alone, in this process: tokens per second and time to first token.

    Example: llmstack bench engine --concurrency 1 --concurrency 4
    """
    from llmstack.bench.engine import EngineWorkload, profile_engine

    model = _load(release)
    workloads = [EngineWorkload(number, prompt_tokens, completion_tokens) for number in concurrency]
    if profile:
        print(profile_engine(model, workloads[0]))
        return
    console = Console(stderr=as_json)
    rows = _measure(model, workloads, rounds, console)
    if as_json:
        print_json([row._asdict() for row in rows])
    else:
        console.print(_results_table(rows, model, workloads[0]))


def _load(release: Path) -> Any:
    from portable_engine.loader import load_model

    try:
        return load_model(release / "engine")
    except ValueError as error:
        fail(error, "correct the variable, or unset it to use the default")
    except OSError as error:
        fail(f"can't load the engine: {str(error).splitlines()[0]}", "name a release with --release")


def _measure(model: Any, workloads: list[EngineWorkload], num_rounds: int, console: Console) -> list[EngineMeasurement]:
    from llmstack.bench.engine import measure_rounds

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("decoding", total=(num_rounds + 1) * len(workloads))
        return measure_rounds(model, workloads, num_rounds, lambda: progress.advance(task))


def _results_table(rows: list[EngineMeasurement], model: Any, workload: EngineWorkload) -> Table:
    import torch

    threads = f", {torch.get_num_threads()} thread(s)" if model.device.type == "cpu" else ""
    sizes = f"{workload.prompt_tokens} + {workload.completion_tokens} tokens"
    table = Table(
        title=f"Portable engine on {model.device.type}{threads}: {sizes}",
        caption="decode: after all prompts are prefilled; total: from arrival to the last token",
    )
    for heading in ("sequences", "decode tok/s", "total tok/s", "first TTFT ms", "last TTFT ms"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(str(row.concurrency), *("–" if value is None else f"{value:.0f}" for value in row[1:]))
    return table
