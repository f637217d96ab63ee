"""The start of a process that is measured."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from llmstack.server.error import ServerStartError

_POLL_S = 0.1
_NUM_LINES = 5


def wait_until_ready(
    process: subprocess.Popen[bytes], is_ready: Callable[[], bool], timeout_s: float, name: str, log_path: Path
) -> None:
    """Wait until `is_ready` is true of the process, which is called `name` and has its output in `log_path`.

    Raises:
        ServerStartError: the process ended, or `timeout_s` passed; the text is the end of its output.
    """
    deadline_s = time.monotonic() + timeout_s
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline_s:
            last_lines = log_path.read_text("utf-8", "replace").splitlines()[-_NUM_LINES:]
            raise ServerStartError("\n".join(last_lines) or f"{name} is not ready", f"read {log_path}")
        time.sleep(_POLL_S)
