"""`llmstack bench random-release`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from llm_policy.release.release import Release
from llmstack.capacity.model_shapes import SHAPES
from llmstack.cli.terminal import fail
from llmstack.paths import DEFAULT_RELEASE_DIR

Shape = Enum("Shape", {name: name for name in SHAPES}, type=str)  # type: ignore[misc]
_DEFAULT_SHAPE = Shape("Qwen3-32B")


def random_release(
    output: Annotated[Path, typer.Argument(help="Directory to write the release to.")],
    max_counted_length: Annotated[
        int | None,
        typer.Option(min=1, help="guidance.limits.max_counted_length; by default that of the embedded release."),
    ] = None,
    shape: Annotated[Shape, typer.Option(help="The model whose shape the release has.")] = _DEFAULT_SHAPE,
) -> None:
    """Write a release with a large model's shape and vocabulary but no weights, to measure the stack on a GPU.

    Example: llmstack bench random-release build/qwen3-32b-random
    """
    from llmstack.bench.random_release import write_random_release

    if output.exists():
        fail(f"{output} already exists", "name another directory, or remove it")
    try:
        template = Release.open(DEFAULT_RELEASE_DIR)
        release = write_random_release(output, shape.value, SHAPES[shape.value], template, max_counted_length)
    except FileNotFoundError as error:
        fail(error, "pip install dashscope, or make install")
    except OSError as error:
        fail(f"{output}: {error.strerror}", "name a directory that can be written")
    typer.echo(f"{output}: {release.manifest.engine.model}, engine {release.manifest.engine.hash}")
    typer.echo(f"Measure it: LLMSTACK_ENGINE_RANDOM_WEIGHTS=1 llmstack bench load --release {output}")
