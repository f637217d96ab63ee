"""`llmstack embedded-model`: train, build and evaluate the release that serves without a GPU."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from embedded_model.checkpoint import Checkpoint
from embedded_model.evaluate_command import evaluate
from embedded_model.model_card import results_text
from embedded_model.release import NUM_STEPS, build_release
from embedded_model.slices import write_slices
from llm_policy.release.release import Release
from llmstack.cli.terminal import fail

# What the committed model was trained with.
DEFAULT_STEPS = 8_000
STOPPED = 130  # as the shell has it after Ctrl-C
app = typer.Typer(no_args_is_help=True, help="The release that serves without a GPU: a Qwen3 of 15 MB.")
app.command()(evaluate)


@app.command()
def train(
    output: Annotated[Path, typer.Option(help="Directory for the checkpoint, and the state on the way to it.")],
    steps: Annotated[int, typer.Option(min=1, help="Training steps of 512 examples.")] = DEFAULT_STEPS,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Which examples and first weights.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Keep the state (91 MB) after so many steps.")] = 250,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state in the directory.")] = False,
    source_commit: Annotated[str, typer.Option(help="For the record, where git can't tell it.")] = "",
) -> None:
    """Train the model on synthetic examples: a quarter of an hour on a GPU, days on a CPU.

    Says how long it will take and what memory it needs after the first two steps. Ctrl-C keeps the state for --resume.
    Writes model.safetensors and training.json; `llmstack embedded-model build --checkpoint` makes a release of them.

    Example: llmstack embedded-model train --output build/checkpoint
    """
    from embedded_model.train_command import Plan, train_visibly  # torch takes seconds to import

    try:
        checkpoint = train_visibly(Console(stderr=True), Plan(output, steps, seed, save_every, resume, source_commit))
    except (OSError, ValueError) as error:
        fail(f"{output}: {error}", "give --output a directory that can be written; --resume needs one with a state")
    if checkpoint is None:
        typer.echo(f"stopped; go on: llmstack embedded-model train --output {output} --steps {steps} --resume")
        raise typer.Exit(STOPPED)
    typer.echo(f"{output}: loss {checkpoint.record.final_loss:.4f} after {checkpoint.record.seconds:.0f} s")
    typer.echo(f"Make a release of it: llmstack embedded-model build --checkpoint {output} --output DIR")


@app.command()
def build(
    output: Annotated[Path, typer.Option(help="Directory to write the release to.", show_default=False)],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="What `train` wrote, or a release with a trained model. Without it: random weights."),
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="What `evaluate --json` printed of this model; its figures go into the card.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Which random weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in the directory.")] = False,
) -> None:
    """Build an embedded release. The same command gives the same bytes on every machine.

    Example: llmstack embedded-model build --checkpoint build/checkpoint --output artifacts/releases/embedded --force
    """
    trained = _read_checkpoint(checkpoint, evaluation) if checkpoint else None
    _check_room(output, force)
    try:
        release = _build_and_swap(output, seed, trained)
    except OSError as error:
        fail(f"{output}: {error.strerror or error}", "give --output a directory that can be written")
    except ValueError as error:
        fail(f"{checkpoint} doesn't fit: {error}", "train again: llmstack embedded-model train --output DIR")
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


def _read_checkpoint(directory: Path, evaluation: Path | None) -> Checkpoint:
    try:
        checkpoint = Checkpoint.read(directory)
    except (OSError, ValueError) as error:
        fail(f"{directory} holds no checkpoint: {error}", "make one: llmstack embedded-model train --output DIR")
    if evaluation is None:
        return checkpoint
    try:
        text = evaluation.read_bytes()
        results_text(text)
    except (OSError, ValueError, LookupError, TypeError) as error:
        fail(f"{evaluation} is no evaluation: {error!r}", "make one: llmstack embedded-model evaluate --json")
    return checkpoint._replace(evaluation=text)


def _check_room(output: Path, force: bool) -> None:
    if output.is_symlink():
        fail(f"{output} is a link", f"name the directory that it leads to: {output.resolve()}")
    if output.exists() and not output.is_dir():
        fail(f"{output} is a file", "name a directory")
    if not output.exists() or not any(output.iterdir()):
        return
    if not force:
        fail(f"{output} is not empty", "add --force to replace what is in it, or name another directory")
    if not (output / "manifest.json").exists():
        fail(f"{output} holds no release, so --force won't delete it", "name another directory, or empty this one")


def _build_and_swap(output: Path, seed: int, checkpoint: Checkpoint | None) -> Release:
    """Build beside `output`, so that what is there stays until the new release is proven."""
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as beside:
        new, old = Path(beside) / "new", Path(beside) / "old"
        _build_with_progress(new, seed, checkpoint)
        if output.exists():
            output.rename(old)
        new.rename(output)
    return Release.open(output)


def _build_with_progress(output: Path, seed: int, checkpoint: Checkpoint | None) -> Release:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("starting", total=NUM_STEPS + 1)

        def report(step: str) -> None:
            progress.update(bar, description=step, advance=1)

        return build_release(output, seed, checkpoint, report)
