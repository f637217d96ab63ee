"""`python -m embedded_model build`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from embedded_model.release.builder import NUM_STEPS, build_release
from embedded_model.release.model_card import results_text
from embedded_model.training.checkpoint import Checkpoint
from llm_policy.release.release import Release
from llmstack.cli.terminal import fail


def build(
    output: Annotated[Path, typer.Option(help="Directory for the release.", show_default=False)],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Output of `train`, or a release with a trained model. Without it: random weights."),
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="Output of `evaluate --json` for this model, for the model card.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the random weights.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the release in the directory.")] = False,
) -> None:
    """Build an embedded release. The same command gives the same bytes on every machine.

    Example: python -m embedded_model build --checkpoint build/checkpoint --output artifacts/releases/embedded --force
    """
    trained = _read_checkpoint(checkpoint, evaluation) if checkpoint else None
    _check_output(output, force)
    try:
        release = _build_and_replace(output, seed, trained)
    except OSError as error:
        fail(f"{output}: {error.strerror or error}", "name a writable directory")
    except ValueError as error:
        fail(f"{checkpoint} doesn't fit: {error}", "train again: python -m embedded_model train --output DIR")
    typer.echo(f"{output}: {release.manifest.engine.model}, engine {release.manifest.engine.hash}")
    typer.echo(f"next: llmstack serve --release {output}")


def _read_checkpoint(directory: Path, evaluation: Path | None) -> Checkpoint:
    try:
        checkpoint = Checkpoint.read(directory)
    except (OSError, ValueError) as error:
        fail(f"{directory} is not a checkpoint: {error}", "make one: python -m embedded_model train --output DIR")
    if evaluation is None:
        return checkpoint
    try:
        text = evaluation.read_bytes()
        results_text(text)
    except (OSError, ValueError, LookupError, TypeError) as error:
        fail(f"{evaluation} is not an evaluation: {error!r}", "make one: python -m embedded_model evaluate --json")
    return checkpoint._replace(evaluation=text)


def _check_output(output: Path, force: bool) -> None:
    if output.is_symlink():
        fail(f"{output} is a symbolic link", f"name its target: {output.resolve()}")
    if output.exists() and not output.is_dir():
        fail(f"{output} is a file", "name a directory")
    if not output.exists() or not any(output.iterdir()):
        return
    if not force:
        fail(f"{output} is not empty", "add --force to replace its contents, or name another directory")
    if not (output / "manifest.json").exists():
        fail(f"{output} holds no release, so --force won't delete it", "name another directory, or empty this one")


def _build_and_replace(output: Path, seed: int, checkpoint: Checkpoint | None) -> Release:
    """Build in a directory beside `output`, and replace `output` only after the new release is verified."""
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        _build_with_progress(new, seed, checkpoint)
        if output.exists():
            output.rename(old)
        new.rename(output)
    return Release.open(output)


def _build_with_progress(output: Path, seed: int, checkpoint: Checkpoint | None) -> Release:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("starting", total=NUM_STEPS + 1)

        def on_step(step: str) -> None:
            progress.update(bar, description=step, advance=1)

        return build_release(output, seed, checkpoint, on_step)
