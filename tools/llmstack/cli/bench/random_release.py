"""`llmstack bench random-release`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from llmstack.capacity.model_shapes import SHAPES, W4A8
from llmstack.cli.guides import Backend
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
    w4a8: Annotated[
        bool, typer.Option("--w4a8", help="4-bit weights and 8-bit activations, for an engine that quantises: vllm.")
    ] = False,
    max_batch_size: Annotated[
        int | None, typer.Option(min=1, help="engine.max_batch_size; by default that of the embedded release.")
    ] = None,
    backend: Annotated[Backend | None, typer.Option(help="guidance.backend; by default auto.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Directory with Qwen's tokenizer.json, which takes 10 s to build.")
    ] = None,
) -> None:
    """Write a release with a large model's shape and vocabulary but no weights, to measure the stack on a GPU.

    Example: llmstack bench random-release build/qwen3-32b-random
    """
    from llm_policy.release.release import Release
    from llmstack.bench.random_release import RandomRelease, write_random_release

    if output.exists():
        fail(f"{output} already exists", "name another directory, or remove it")
    try:
        template = Release.open(DEFAULT_RELEASE_DIR)
        release = write_random_release(
            output,
            RandomRelease(
                shape.value,
                {**SHAPES[shape.value], "quantization_config": W4A8} if w4a8 else SHAPES[shape.value],
                max_counted_length,
                max_batch_size,
                backend.value if backend else None,
                tokenizer,
            ),
            template,
        )
    except FileNotFoundError as error:
        fail(error, "pip install dashscope, or make install")
    except OSError as error:
        fail(f"{output}: {error.strerror}", "name a directory that can be written")
    typer.echo(f"{output}: {release.manifest.engine.model}, engine {release.manifest.engine.hash}")
    if w4a8:
        typer.echo(f"Measure it: llmstack bench vllm --release {output}")
    else:
        typer.echo(f"Measure it: LLMSTACK_ENGINE_RANDOM_WEIGHTS=1 llmstack bench load --release {output}")
