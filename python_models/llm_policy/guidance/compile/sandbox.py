"""Worker processes that plan and compile guides, so that no guide can crash or hang a Triton stub."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from llm_policy.release.manifest import Guidance

START_TIMEOUT_S = 120.0
# Inside a Triton stub `sys.executable` is not a Python interpreter; the program that starts the server sets this.
PYTHON = "LLMSTACK_PYTHON"


class SandboxedWorker:
    """One worker process. `fileno` becomes readable when a message arrives or the process exits."""

    def __init__(self, tokenizer_info_path: Path, guidance: Guidance) -> None:
        command = [os.environ.get(PYTHON, sys.executable), "-m", "llm_policy.guidance.compile.worker"]
        arguments = [str(tokenizer_info_path), guidance.model_dump_json()]
        self._process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
        )
        assert self._process.stdout is not None and self._process.stdin is not None  # noqa: S101 - for the type checker
        self._output, self._input = self._process.stdout, self._process.stdin
        os.set_blocking(self._output.fileno(), False)
        self._received = b""
        self._timeout_s = START_TIMEOUT_S
        self.is_ready = False
        self.last_message_s = 0.0  # monotonic
        self.deadline = time.monotonic() + START_TIMEOUT_S

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def fileno(self) -> int:
        """Descriptor of the worker's output, for a selector."""
        return self._output.fileno()

    def send(self, kind: str, text: str, timeout_s: float, *, is_registered: bool = False) -> None:
        """Send one guide; the report is due within `timeout_s`.

        Raises:
            BrokenPipeError: the worker is dead.
        """
        self._timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self._input.write(orjson.dumps([kind, text, is_registered], option=orjson.OPT_APPEND_NEWLINE))
        self._input.flush()

    def receive(self) -> Any:
        """The worker's message; None until it is complete.

        Raises:
            EOFError: the worker is dead.
        """
        while True:
            try:
                chunk = os.read(self.fileno(), 1 << 20)
            except BlockingIOError:
                return None
            if not chunk:
                raise EOFError
            self._received += chunk
            while b"\n" in self._received:
                line, _, self._received = self._received.partition(b"\n")
                message = orjson.loads(line)
                if not self._is_progress(message):
                    return message

    def _is_progress(self, message: Any) -> bool:
        """Whether the worker loads a backend, or has loaded it: the guide's time starts anew after that."""
        if not isinstance(message, dict) or "loading" not in message:
            return False
        self.deadline = time.monotonic() + (START_TIMEOUT_S if message["loading"] else self._timeout_s)
        return True

    def kill(self) -> None:
        """Kill the worker and wait for its exit."""
        self._process.kill()
        self._process.wait()
        self._output.close()
        with contextlib.suppress(BrokenPipeError):
            self._input.close()


def _environment() -> dict[str, str]:
    """The parent's environment without the server's library path, and with this package importable."""
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    source_root = str(Path(__file__).resolve().parents[3])
    return {**environment, "PYTHONPATH": source_root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
