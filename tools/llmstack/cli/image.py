"""`llmstack image`: builds and checks the container image."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from llmstack.cli.command_group import CommandGroup
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.paths import PROJECT_ROOT

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    help="Build and check the container image, through Docker.\n\nExample: llmstack image build",
)

DEFAULT_TAG = "llmstack"
Tag = Annotated[str, typer.Option(help="Name of the image.")]


class Variant(str, Enum):
    """The engine of an image."""

    TRTLLM = "trtllm"
    VLLM = "vllm"


_NEXT_STEP = "run docker info to see whether Docker runs and whether you may use it"
# Lines that stay on the screen, a few dozen of thousands. The others only update the status line.
_STEP, _LAYER_DONE = "Step ", (": Pull complete", ": Already exists")
_NUM_LINES_ON_ERROR = 20


def _require_docker() -> None:
    """Exit with a next step when Docker's SDK is missing: the service does not need it."""
    try:
        import docker.errors  # noqa: F401 - a directory named `docker` passes for the package; `docker.errors` does not
    except ImportError:
        fail("the Python package docker is not installed", "pip install docker, or make install in a checkout")


@app.command()
def build(
    engine: Annotated[
        Variant, typer.Option(help="The engine that NVIDIA's image brings: TensorRT-LLM or vLLM.")
    ] = Variant.TRTLLM,
    tag: Annotated[
        str | None, typer.Option(help="Name of the image.", show_default="llmstack, or llmstack-vllm with vLLM")
    ] = None,
    triton_image: Annotated[
        str | None,
        typer.Option(
            envvar="LLMSTACK_BASE_IMAGE",
            help="The base image: NVIDIA's tritonserver, with a tag that ends in -trtllm-python-py3 or "
            "-vllm-python-py3.",
            show_default="25.10 with TensorRT-LLM, 26.07 with vLLM",
        ),
    ] = None,
    engine_python: Annotated[
        str | None,
        typer.Option(
            help="The Python in the base image that runs the engine process.",
            show_default="/usr/bin/python3 with vLLM, else the environment's",
        ),
    ] = None,
    network: Annotated[str | None, typer.Option(help="Docker network for the build, such as host.")] = None,
) -> None:
    """Build docker/Dockerfile of this checkout and show the progress.

    With vLLM the engine process runs in the base image's own Python, which has another numpy than Triton's stubs.

    Example: llmstack image build --engine vllm --tag llmstack-vllm
    """
    _require_docker()
    from llmstack.image.docker_client import ImageError
    from llmstack.image.image_build import DOCKERFILE, VARIANTS, build_image

    if not (PROJECT_ROOT / DOCKERFILE).is_file():
        fail(f"there is no {DOCKERFILE} in {PROJECT_ROOT}", "build from a checkout")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    variant = VARIANTS[engine.value]
    name = tag or variant.tag
    given = {"TRITON_IMAGE": triton_image, "ENGINE_PYTHON": engine_python}
    arguments = {**variant.arguments, **{key: value for key, value in given.items() if value}}
    latest: deque[str] = deque(maxlen=_NUM_LINES_ON_ERROR)
    try:
        with console.status(f"building {escape(name)}") as status:

            def report(text: str) -> None:
                latest.append(text)
                status.update(escape(text.splitlines()[0][:120]))
                if text.startswith(_STEP) or text.endswith(_LAYER_DONE):
                    console.print(text, markup=False)

            image_id = build_image(PROJECT_ROOT, name, arguments, network, report)
    except ImageError as error:
        console.print("\n".join(latest), markup=False)
        fail(error, _NEXT_STEP)
    typer.echo(f"{name}: {image_id}")


@app.command()
def check(
    tag: Tag = DEFAULT_TAG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a built image.

    Checks the labels, the user and the health check; that the base image's packages are not replaced and the embedded
    engine decodes; that the release matches its manifest; and that the stack starts on a read-only root. The containers
    have no network. Exits with 1 when a check fails.

    Example: llmstack image check --tag llmstack
    """
    _require_docker()
    from llmstack.image.docker_client import ImageError
    from llmstack.image.image_checks import run_image_checks

    console = Console(soft_wrap=True, highlight=False)
    try:
        results = run_image_checks(tag)
    except ImageError as error:
        fail(error, f"build it with llmstack image build --tag {tag}; {_NEXT_STEP}")
    if as_json:
        print_json([result._asdict() for result in results])
    else:
        for result in results:
            console.print(f"[{'green]✔' if result.ok else 'red]✘'}[/] {result.check}: {escape(result.text)}")
    if not all(result.ok for result in results):
        raise typer.Exit(EXIT_FAILED)
