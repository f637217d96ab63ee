"""Starting a server while the terminal shows progress, and reporting why one can't start."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NoReturn

import typer
from rich.console import Console

from llmstack.server.error import ServerStartError
from llmstack.server.process import DEFAULT_START_TIMEOUT_S, TritonServer

_FAILED = 1


def give_up(error: ServerStartError) -> NoReturn:
    """Print the error and the next step on standard error, and exit with 1."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"error: {error}", style="red", markup=False)
    console.print(f"next:  {error.next_step}", markup=False)
    raise typer.Exit(_FAILED)


def start_visibly(
    server: TritonServer,
    console: Console,
    timeout_s: float = DEFAULT_START_TIMEOUT_S,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Wait until a started `server` is ready, with a progress line; `check` may raise to give up.

    Raises:
        ServerStartError: the server ended or took too long.
    """
    began = time.monotonic()
    text = f"starting tritonserver with the {server.engine} engine"
    if not console.is_terminal:
        console.print(text)
    with console.status(text) as status:

        def on_poll() -> None:
            status.update(f"{text}, {time.monotonic() - began:.0f} s")
            check()

        server.wait_ready(timeout_s, on_poll)
