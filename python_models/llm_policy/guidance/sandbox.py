"""Compiles guides in a child process, so that no guide can crash or hang a Triton stub."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from llm_policy.errors import Code, InvalidRequest, PolicyError, Unavailable

START_TIMEOUT_S = 120.0
# `sys.executable` inside a Triton stub is no Python: whoever starts the server says which one to use.
PYTHON = "LLMSTACK_PYTHON"


class GuideSandbox:
    """One warm child. Not thread-safe: one thread owns it.

    `max_compile_ms` bounds one guide's compile; a child that overruns it or dies is replaced.
    """

    def __init__(self, tokenizer_info_path: Path, max_compile_ms: int) -> None:
        self._tokenizer_info_path = tokenizer_info_path
        self._max_compile_ms = max_compile_ms
        self._child: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def start(self) -> None:
        """Start the child and wait until it takes guides.

        Raises:
            Unavailable: `guidance_unavailable`; it did not start.
        """
        self.close()
        command = [os.environ.get(PYTHON, sys.executable), "-m", "llm_policy.guidance.worker"]
        self._child = subprocess.Popen(
            [*command, str(self._tokenizer_info_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        self._buffer = b""
        if self._read_verdict(START_TIMEOUT_S) is None:
            self.close()
            raise Unavailable(Code.GUIDANCE_UNAVAILABLE, "the guide compiler does not start")

    def check(self, engine_type: str, text: str) -> PolicyError | None:
        """Why the guide is refused; None when it compiles in time."""
        try:
            if self._child is None:
                self.start()
            verdict = self._ask([engine_type, text])
        except Unavailable as error:
            return error
        if verdict is None:
            return self._blame()
        status, detail = verdict
        return None if status == "ok" else InvalidRequest(Code(status), str(detail))

    def close(self) -> None:
        """Stop the child."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _ask(self, guide: list[str]) -> list[Any] | None:
        """The child's verdict; None when it died or overran."""
        assert self._child is not None and self._child.stdin is not None  # noqa: S101 - for the type checker
        try:
            self._child.stdin.write(orjson.dumps(guide, option=orjson.OPT_APPEND_NEWLINE))
            self._child.stdin.flush()
        except BrokenPipeError:
            return None
        return self._read_verdict(self._max_compile_ms / 1_000)

    def _read_verdict(self, timeout_s: float) -> list[Any] | None:
        assert self._child is not None and self._child.stdout is not None  # noqa: S101 - for the type checker
        ready, _, _ = select.select([self._child.stdout], [], [], timeout_s)
        line = self._child.stdout.readline() if ready else b""
        return orjson.loads(line) if line else None

    def _blame(self) -> PolicyError:
        overran = self._child is not None and self._child.poll() is None
        self.close()
        fault = f"took more than {self._max_compile_ms} ms to compile" if overran else "stopped the grammar compiler"
        return InvalidRequest(
            Code.SCHEMA_TOO_COMPLEX, f"guide {fault}, limit {self._max_compile_ms} ms (max_compile_ms)"
        )


def _environment() -> dict[str, str]:
    """The child sees this package and nothing that the server's own libraries need."""
    environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
    source_root = str(Path(__file__).resolve().parents[2])
    return {**environment, "PYTHONPATH": source_root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
