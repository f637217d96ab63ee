"""Child processes that plan and compile guides, so that no guide can crash or hang a Triton stub."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from llm_policy.release.guide_limits import GuideLimits

START_TIMEOUT_S = 120.0
# `sys.executable` inside a Triton stub is no Python: whoever starts the server says which one to use.
PYTHON = "LLMSTACK_PYTHON"


class SandboxChild:
    """One child. `fileno` becomes readable when it has something to say, or has died."""

    def __init__(self, tokenizer_info_path: Path, limits: GuideLimits) -> None:
        command = [os.environ.get(PYTHON, sys.executable), "-m", "llm_policy.guidance.compile.worker"]
        arguments = [str(tokenizer_info_path), limits.model_dump_json()]
        self._process = subprocess.Popen(
            [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
        )
        assert self._process.stdout is not None and self._process.stdin is not None  # noqa: S101 - for the type checker
        self._output, self._input = self._process.stdout, self._process.stdin
        os.set_blocking(self._output.fileno(), False)
        self._received = b""
        self.is_ready = False
        self.spoke_s = 0.0  # when it last said something (monotonic)
        self.deadline = time.monotonic() + START_TIMEOUT_S

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def fileno(self) -> int:
        """For a selector."""
        return self._output.fileno()

    def ask(self, kind: str, text: str, timeout_s: float) -> None:
        """Send one guide; the answer is due within `timeout_s`.

        Raises:
            BrokenPipeError: the child is dead.
        """
        self.deadline = time.monotonic() + timeout_s
        self._input.write(orjson.dumps([kind, text], option=orjson.OPT_APPEND_NEWLINE))
        self._input.flush()

    def receive(self) -> Any:
        """The child's message once it is whole, None before.

        Raises:
            EOFError: the child is dead.
        """
        while True:
            try:
                chunk = os.read(self.fileno(), 1 << 20)
            except BlockingIOError:
                return None
            if not chunk:
                raise EOFError
            self._received += chunk
            if self._received.endswith(b"\n"):
                message, self._received = self._received, b""
                return orjson.loads(message)

    def kill(self) -> None:
        """End the child and wait for it."""
        self._process.kill()
        self._process.wait()
        self._output.close()
        with contextlib.suppress(BrokenPipeError):
            self._input.close()


def _environment() -> dict[str, str]:
    """The child sees this package and nothing that the server's own libraries need."""
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    source_root = str(Path(__file__).resolve().parents[2])
    return {**environment, "PYTHONPATH": source_root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
