"""`llmstack image`: build the container image, and prove that it is what it should be."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from llmstack.paths import PROJECT_ROOT
from llmstack.terminal import DIFFERENT, fail

app = typer.Typer(no_args_is_help=True, help="The container image, through Docker.")

DEFAULT_TAG = "llmstack"
Tag = Annotated[str, typer.Option(help="The image's name.")]
_NEXT_STEP = "docker info shows whether Docker runs and whether you may use it"


@app.command()
def build(
    tag: Tag = DEFAULT_TAG,
    triton_image: Annotated[
        str | None,
        typer.Option(envvar="TRITON_IMAGE", help="The image to build on.", show_default="that of docker/Dockerfile"),
    ] = None,
    network: Annotated[str | None, typer.Option(help="Docker's network for the build, such as host.")] = None,
) -> None:
    """Build docker/Dockerfile of this checkout, and show how far it is.

    Example: llmstack image build --triton-image nvcr.io/nvidia/tritonserver:25.10-trtllm-python-py3
    """
    from llmstack.image.image_build import ImageError, build_image  # Docker's SDK is no part of the service

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    arguments = {"TRITON_IMAGE": triton_image} if triton_image else {}
    try:
        with console.status(f"building {tag}") as status:

            def report(line: str) -> None:
                status.update(line.splitlines()[0][:120])
                if line.startswith("Step ") or not console.is_terminal:
                    console.print(line, markup=False)

            image_id = build_image(PROJECT_ROOT, tag, arguments, network, report)
    except ImageError as error:
        fail(error, _NEXT_STEP)
    typer.echo(f"{tag}: {image_id}")


@app.command()
def check(tag: Tag = DEFAULT_TAG) -> None:
    """Examine a built image from inside: whose it is, that the image's own packages stand, that its release is whole.

    Runs without network and with a read-only root. Exits with 1 when something is wrong.

    Example: llmstack image check --tag llmstack
    """
    from llmstack.image.image_build import TITLE, TITLE_LABEL, ImageError, image_labels, run_in_image

    console = Console(soft_wrap=True, highlight=False)
    try:
        if image_labels(tag).get(TITLE_LABEL) != TITLE:
            fail(f"the image {tag} holds no llmstack", "llmstack image build makes one")
        commands = {
            "environment": ["python", "/opt/llmstack-build/check_environment.py"],
            "release": ["llmstack", "manifest", "verify", "artifacts/current"],
        }
        faulty = False
        for name, command in commands.items():
            status, output = run_in_image(tag, command)
            faulty = faulty or status != 0
            console.print(f"[{'red' if status else 'green'}]{'✘' if status else '✔'}[/] {name}")
            console.print(output.strip(), markup=False)
    except ImageError as error:
        fail(error, _NEXT_STEP)
    if faulty:
        raise typer.Exit(DIFFERENT)
