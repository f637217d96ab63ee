"""Starting a server: the progress line on the terminal, and the error when it can't start."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from llmstack.cli.terminal import EXIT_FAILED, fail
from llmstack.server.engines import DEFAULT_START_TIMEOUT_S
from llmstack.server.error import ServerStartError

if TYPE_CHECKING:
    from llmstack.server.process import TritonServer


def exit_with_error(error: ServerStartError) -> NoReturn:
    """Print the error and the next step on standard error, and exit with 1."""
    fail(error, error.next_step, EXIT_FAILED)


def wait_with_progress(
    server: TritonServer,
    console: Console,
    timeout_s: float = DEFAULT_START_TIMEOUT_S,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Wait until a started `server` is ready, with a progress line; `check` may raise to abandon the wait.

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
