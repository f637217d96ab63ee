"""`llmstack openai`: the OpenAI API in front of one or several servers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llmstack.cli.command_group import CommandGroup
from llmstack.cli.terminal import fail
from llmstack.server.error import ServerStartError
from llmstack.server.parent_death import forbid_core_files

_BASE_URL = re.compile(r"https?://[A-Za-z0-9._%\-\[\]:]+/?")

app = typer.Typer(cls=CommandGroup, no_args_is_help=True)


@app.callback()
def openai() -> None:
    """Serve the OpenAI API.

    Example: llmstack openai serve --help
    """


@app.command()
def serve(
    triton: Annotated[
        str, typer.Option(metavar="HOST:PORT,…", help="The gRPC ports of the servers, which take requests in turn.")
    ] = "127.0.0.1:8001",
    release_dir: Annotated[
        Path | None,
        typer.Option(
            "--release",
            help="The release that the servers run: its manifest has the model's name and the tasks. Without it the "
            "model is ensemble, and a request may give it any name.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(envvar="LLMSTACK_HOST", help="The address to listen on; 0.0.0.0 is every interface.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", "--openai-port", envvar="LLMSTACK_OPENAI_PORT", min=0, max=65535, help="0 picks a free port."
        ),
    ] = 8005,
    readiness: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The readiness port of a server, such as http://gpu1:8003: its ledger answers /v1/usage. Without it "
            "nothing does.",
            show_default=False,
        ),
    ] = None,
    socket_fd: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="The number of an open file: a socket that already listens, instead of --host and --port.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve the OpenAI API until Ctrl-C.

    It has no state and no policy: every request goes to one of the servers, with the headers that the client sent.
    `llmstack serve` runs one by itself.

    Example: llmstack openai serve --triton gpu1:8001,gpu2:8001 --release artifacts/current
    """
    from llm_policy.release.manifest import ManifestError
    from llmstack.openai.model_names import read_model_names
    from llmstack.openai.openai_server import OpenAIServer, OpenAIServerSettings  # other commands need no Starlette

    forbid_core_files()
    try:
        names = read_model_names(release_dir)
        settings = OpenAIServerSettings(_addresses(triton), host, port, names, _readiness(readiness), socket_fd)
        server = OpenAIServer(settings)
    except (OSError, ManifestError) as error:
        fail(error, "give --release a release's directory")
    except ServerStartError as error:
        fail(error, error.next_step)
    if socket_fd is None:
        Console(soft_wrap=True).print(f"OpenAI API on {host}, port {server.port}, in front of {triton}")
    server.run()


def _readiness(url: str | None) -> str | None:
    if url is not None and not _BASE_URL.fullmatch(url):
        fail(f"--readiness {url!r} is not http://HOST:PORT", "give a server's readiness port, such as http://gpu1:8003")
    return url.rstrip("/") if url is not None else None


def _addresses(triton: str) -> list[str]:
    addresses = [address.strip() for address in triton.split(",") if address.strip()]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            fail(f"--triton {address!r} is not HOST:PORT", "give the gRPC port of each server, such as gpu1:8001")
    if not addresses:
        fail("--triton names no server", "give the gRPC port of each server, such as gpu1:8001")
    return addresses
