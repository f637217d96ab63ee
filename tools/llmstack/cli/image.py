"""`llmstack image`: build the container image, and prove that it is what it should be."""

from __future__ import annotations

from collections import deque
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from llmstack.cli.terminal import DIFFERENT, fail, print_json
from llmstack.paths import PROJECT_ROOT

app = typer.Typer(no_args_is_help=True, help="The container image, through Docker.")

DEFAULT_TAG = "llmstack"
Tag = Annotated[str, typer.Option(help="The image's name.")]
_NEXT_STEP = "docker info shows whether Docker runs and whether you may use it"
# Lines that stay: a build has dozens of them, and thousands of others.
_STEP, _LAYER_ENDS = "Step ", (": Pull complete", ": Already exists")
_NUM_LINES_OF_FAULT = 20


@app.callback()
def image() -> None:
    """Docker's SDK is no part of the service, so it may be missing."""
    try:
        import docker.errors  # noqa: F401 - a directory `docker` alone is a package, too
    except ImportError:
        fail("the Python package docker is not installed", "pip install docker, or make install in a checkout")


@app.command()
def build(
    tag: Tag = DEFAULT_TAG,
    triton_image: Annotated[
        str | None,
        typer.Option(
            envvar="LLMSTACK_BASE_IMAGE", help="The image to build on.", show_default="that of docker/Dockerfile"
        ),
    ] = None,
    network: Annotated[str | None, typer.Option(help="Docker's network for the build, such as host.")] = None,
) -> None:
    """Build docker/Dockerfile of this checkout, and show how far it is.

    Example: llmstack image build --triton-image nvcr.io/nvidia/tritonserver:25.10-trtllm-python-py3
    """
    from llmstack.image.docker_engine import ImageError
    from llmstack.image.image_build import DOCKERFILE, build_image

    if not (PROJECT_ROOT / DOCKERFILE).is_file():
        fail(f"there is no {DOCKERFILE} in {PROJECT_ROOT}", "build from a checkout")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    arguments = {"TRITON_IMAGE": triton_image} if triton_image else {}
    latest: deque[str] = deque(maxlen=_NUM_LINES_OF_FAULT)
    try:
        with console.status(f"building {escape(tag)}") as status:

            def report(text: str) -> None:
                latest.append(text)
                status.update(escape(text.splitlines()[0][:120]))
                if text.startswith(_STEP) or text.endswith(_LAYER_ENDS):
                    console.print(text, markup=False)

            image_id = build_image(PROJECT_ROOT, tag, arguments, network, report)
    except ImageError as error:
        console.print("\n".join(latest), markup=False)
        fail(error, _NEXT_STEP)
    typer.echo(f"{tag}: {image_id}")


@app.command()
def check(
    tag: Tag = DEFAULT_TAG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Examine a built image: labels, user, health check, that the image's own packages stand and the embedded engine
    decodes, that its release is whole, and that it starts on a read-only root.

    Its containers have no network. Exits with 1 when something is wrong.

    Example: llmstack image check --tag llmstack
    """
    from llmstack.image.docker_engine import ImageError
    from llmstack.image.examination import examine_image

    console = Console(soft_wrap=True, highlight=False)
    try:
        results = examine_image(tag)
    except ImageError as error:
        fail(error, f"llmstack image build --tag {tag} makes one; {_NEXT_STEP}")
    if as_json:
        print_json([result._asdict() for result in results])
    else:
        for result in results:
            console.print(f"[{'green]✔' if result.ok else 'red]✘'}[/] {result.check}: {escape(result.text)}")
    if not all(result.ok for result in results):
        raise typer.Exit(DIFFERENT)
