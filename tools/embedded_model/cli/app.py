"""The program `python -m embedded_model`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from embedded_model.cli.build import build
from embedded_model.cli.evaluate import evaluate
from embedded_model.release.slices import write_slices
from embedded_model.training.settings import TrainingSettings
from llmstack.cli.terminal import fail

DEFAULT_STEPS = 8_000  # of the committed model
STOPPED = 130  # the shell's exit code after Ctrl-C
app = typer.Typer(
    name="python -m embedded_model",
    no_args_is_help=True,
    add_completion=False,
    help="Train, build and evaluate the release that serves without a GPU: a Qwen3 of 15 MB.",
)


@app.command()
def train(
    output: Annotated[Path, typer.Option(help="Directory for the checkpoint and the saved state.")],
    steps: Annotated[int, typer.Option(min=1, help="Training steps of 512 examples.")] = DEFAULT_STEPS,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the examples and initial weights.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between saves of the state (91 MB).")] = 250,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the saved state in the directory.")] = False,
    source_commit: Annotated[str, typer.Option(help="Commit for training.json, outside of a git checkout.")] = "",
) -> None:
    """Train the model on synthetic examples: a quarter of an hour on a GPU, days on a CPU.

    After two steps it prints the estimated time and the memory in use. Ctrl-C saves the state for --resume. Writes
    model.safetensors and training.json, from which `build --checkpoint` makes a release.

    Example: python -m embedded_model train --output build/checkpoint
    """
    from embedded_model.cli.train import train_with_progress  # imports torch, which takes seconds

    settings = TrainingSettings(output, steps, seed, save_every, resume, source_commit)
    try:
        checkpoint = train_with_progress(Console(stderr=True), settings)
    except (OSError, ValueError) as error:
        fail(f"{output}: {error}", "name a writable directory; --resume needs one with a saved state")
    if checkpoint is None:
        typer.echo(f"stopped; to continue: python -m embedded_model train --output {output} --steps {steps} --resume")
        raise typer.Exit(STOPPED)
    typer.echo(f"{output}: loss {checkpoint.record.final_loss:.4f} after {checkpoint.record.seconds:.0f} s")
    typer.echo(f"next: python -m embedded_model build --checkpoint {output} --output DIR")


@app.command()
def slices(
    output: Annotated[Path, typer.Option(help="Directory for the files.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, help="Slices per task.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the prompts.")] = 0,
) -> None:
    """Write eval slices for `llmstack smoke`: held-out prompts of each task with their correct answers.

    Example: python -m embedded_model slices --output artifacts/slices --seed 1
    """
    try:
        write_slices(output, seed, count)
    except OSError as error:
        fail(f"{output}: {error.strerror}", "name a writable directory")
    typer.echo(f"{output}: {count} slices per task; run them: llmstack smoke --slices {output}")


app.command()(build)
app.command()(evaluate)
