"""What the Python of the engine process holds, asked in a process of it."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from llmstack.server.engine_process import ENGINE_PYTHON, engine_python, lay_out_source

# What an engine may need, and what explains a failure to load it.
PACKAGES = ("vllm", "tensorrt_llm", "torch", "transformers", "numpy", "msgspec")
MODULES = ("msgspec", "engine_process.server")
_PROBE = Path(__file__).with_name("engine_python_probe.py")
_TIMEOUT_S = 120


class EnginePythonError(RuntimeError):
    """The engine's Python can't be started; the text says why."""


class EnginePython(NamedTuple):
    """A Python, the versions of those of `PACKAGES` that it finds, and why modules can't be imported."""

    program: str
    version: str
    packages: Mapping[str, str]
    errors: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.program}, Python {self.version}"


def read_engine_python(modules: Iterable[str] = MODULES) -> EnginePython:
    """Start the engine's Python with the sources of the engine process, as `llmstack serve` does, and import `modules`.

    Raises:
        EnginePythonError: it does not start, or does not answer.
    """
    program = engine_python()
    with tempfile.TemporaryDirectory() as directory:
        source = lay_out_source(Path(directory) / "source")
        command = [program, "-c", _PROBE.read_text(encoding="utf-8"), *PACKAGES, "--", *modules]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd=source,
                env=_environment(source), stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EnginePythonError(f"{program} does not start: {error}") from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return EnginePython(program, answer["version"], answer["packages"], answer["errors"])
    except (IndexError, ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise EnginePythonError(f"{program} does not run: {last}") from None


def _environment(source: Path) -> dict[str, str]:
    """The variables of the engine process: another Python must not see the packages of this one."""
    paths = [str(source)]
    if not os.environ.get(ENGINE_PYTHON) and os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
