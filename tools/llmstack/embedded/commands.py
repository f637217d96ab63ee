"""`llmstack embedded-model`: train, build and evaluate the release that serves without a GPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from llm_policy.release import Release
from llmstack.embedded.checkpoint import Checkpoint
from llmstack.embedded.evaluate_command import evaluate
from llmstack.embedded.release import NUM_STEPS, build_release
from llmstack.embedded.slices import write_slices
from llmstack.terminal import fail

# What the committed model was trained with.
DEFAULT_STEPS = 6_000
app = typer.Typer(no_args_is_help=True, help="The release that serves without a GPU: a Qwen3 of 15 MB.")
app.command()(evaluate)


@app.command()
def train(
    output: Annotated[Path, typer.Option(help="Directory to write the checkpoint to.", show_default=False)],
    steps: Annotated[int, typer.Option(min=1, help="Training steps of 512 examples.")] = DEFAULT_STEPS,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Which examples and first weights.")] = 0,
) -> None:
    """Train the model on synthetic examples: a few minutes on a GPU, days on a CPU; it says how long.

    Writes model.safetensors and training.json; `llmstack embedded-model build --checkpoint` makes a release of them.

    Example: llmstack embedded-model train --output build/checkpoint
    """
    from llmstack.embedded.train_command import train_visibly  # torch takes seconds to import

    checkpoint = train_visibly(Console(stderr=True), steps, seed)
    checkpoint.write(output)
    typer.echo(f"{output}: loss {checkpoint.record.final_loss:.4f} after {checkpoint.record.seconds:.0f} s")
    typer.echo(f"Make a release of it: llmstack embedded-model build --checkpoint {output} --output DIR")


@app.command()
def build(
    output: Annotated[Path, typer.Option(help="Directory to write the release to.", show_default=False)],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="What `train` wrote, or a release with a trained model. Without it: random weights."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Which random weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in the directory.")] = False,
) -> None:
    """Build an embedded release. The same command gives the same bytes on every machine.

    Example: llmstack embedded-model build --checkpoint build/checkpoint --output artifacts/releases/embedded --force
    """
    trained = _read_checkpoint(checkpoint) if checkpoint else None
    try:
        _make_room(output, force)
        release = _build_with_progress(output, seed, trained)
    except OSError as error:
        fail(f"{output}: {error.strerror}", "give --output a directory that can be written")
    typer.echo(f"{output}: {release.manifest.engine.model}, engine {release.manifest.engine.hash}")
    typer.echo(f"Serve it: llmstack serve --release {output}")


@app.command()
def slices(
    output: Annotated[Path, typer.Option(help="Directory to write the files to.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, help="Slices a task.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Which questions.")] = 0,
) -> None:
    """Write eval slices for `llmstack smoke`: held-out questions of each task with the right answers.

    Example: llmstack embedded-model slices --output artifacts/slices
    """
    try:
        write_slices(output, seed, count)
    except OSError as error:
        fail(f"{output}: {error.strerror}", "give --output a directory that can be written")
    typer.echo(f"{output}: {count} slices a task; run them: llmstack smoke --slices {output}")


def _read_checkpoint(directory: Path) -> Checkpoint:
    try:
        return Checkpoint.read(directory)
    except (OSError, ValueError) as error:
        fail(f"{directory} holds no checkpoint: {error}", "make one: llmstack embedded-model train --output DIR")


def _make_room(output: Path, force: bool) -> None:
    if not output.exists() or not any(output.iterdir()):
        return
    if not force:
        fail(f"{output} is not empty", "add --force to replace what is in it, or name another directory")
    if not (output / "manifest.json").exists():
        fail(f"{output} holds no release, so --force won't delete it", "name another directory, or empty this one")
    shutil.rmtree(output)


def _build_with_progress(output: Path, seed: int, checkpoint: Checkpoint | None) -> Release:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("starting", total=NUM_STEPS + 1)

        def report(step: str) -> None:
            progress.update(bar, description=step, advance=1)

        return build_release(output, seed, checkpoint, report)
