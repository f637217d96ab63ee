"""The process that serves the OpenAI API beside one tritonserver. See `llmstack.openai` for what it does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from llmstack.server.process_group import kill_group, launcher, stop_group

LOG_NAME = "openai.log"
_TERMINATE_S = 15.0  # longer than the process gives the answers that it sends


@dataclass
class OpenAIProcess:
    """One front end of the server whose gRPC port is `triton` (`host:port`).

    `readiness` is the URL of the readiness port, which /v1/usage needs.

    It serves the socket `listener`, which stays open here: while the process is started again, connections wait. The
    process dies with the thread that started it.
    """

    listener: socket.socket
    triton: str
    release_dir: Path
    state_dir: Path
    readiness: str | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def pid(self) -> int | None:
        """The process id; None while none runs."""
        return self._process.pid if self._process is not None and self.is_running else None

    @property
    def port(self) -> int:
        """The port of the API."""
        return int(self.listener.getsockname()[1])

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process without waiting until it answers.

        Raises:
            OSError: it can't be started.
        """
        descriptor = self.listener.fileno()
        program = [sys.executable, "-m", "llmstack", "openai", "serve", "--triton", self.triton]
        program += ["--release", str(self.release_dir), "--socket-fd", str(descriptor)]
        program += ["--readiness", self.readiness] if self.readiness is not None else []
        with (self.state_dir / LOG_NAME).open("ab") as log:
            self._process = subprocess.Popen(
                [*launcher(signal.SIGKILL), *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(descriptor,),
                env=dict(os.environ),
                start_new_session=True,  # Ctrl-C in a terminal goes to this process only
            )

    def stop(self) -> None:
        """Terminate the process; answers that it has begun to send are completed."""
        if self._process is not None:
            stop_group(self._process, _TERMINATE_S)
            self._process = None

    def kill(self) -> None:
        """Kill the process."""
        if self._process is not None:
            kill_group(self._process)
            self._process = None
