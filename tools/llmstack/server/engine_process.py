"""One engine process, from its start to the end of its last child. See `engine_process` for what it does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine_process.client import read_stats, release_hello
from engine_process.messages import Hello, Stats
from llmstack.paths import SOURCE_ROOT
from llmstack.server.error import ServerStartError
from llmstack.server.process_group import kill_group, launcher, stop_group

ENGINE_PYTHON = "LLMSTACK_ENGINE_PYTHON"
LOG_NAME = "engine.log"
_PACKAGES = ("engine_process", "portable_engine")
_SOURCE_DIR = "engine-source"
_POLL_S = 0.05
_STATS_TIMEOUT_S = 30.0
POLL_TIMEOUT_S = 5.0  # in loops that have to look at other things too
_TERMINATE_S = 20.0
_NUM_LAST_LINES = 3


@dataclass
class EngineProcess:
    """The process that keeps the weights of one release's engine.

    `options` are the engine's own. The process dies with the thread that started it. `$LLMSTACK_ENGINE_PYTHON` is its
    Python, by default this one; that Python needs msgspec and the engine's packages.
    """

    kind: str
    release_dir: Path
    state_dir: Path
    options: Mapping[str, str] = field(default_factory=dict)
    started_at: float = field(default=0.0, init=False)
    log_start: int = field(default=0, init=False)
    _hello: Hello | None = field(default=None, init=False, repr=False)  # of this start, once it was needed
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    @property
    def pid(self) -> int:
        """The process id, which is its process group's id too."""
        if self._process is None:
            raise RuntimeError("the engine process was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is alive; it may still load, or hang."""
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        """The process's output; this start's lines begin at `log_start`."""
        return self.state_dir / LOG_NAME

    def start(self) -> None:
        """Start the process without waiting until its engine is loaded.

        Raises:
            OSError: it can't be started.
        """
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self._hello = None
        program = [engine_python(), "-m", "engine_process", self.kind, str(self.release_dir.resolve())]
        program += [str(self.state_dir), *(f"--option={key}={value}" for key, value in self.options.items())]
        with self.log_path.open("ab") as log:
            self.log_start = log.tell()
            self.started_at = time.time()
            self._process = subprocess.Popen(
                [*launcher(signal.SIGKILL), *program],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                cwd=lay_out_source(self.state_dir / _SOURCE_DIR),
                start_new_session=True,  # Ctrl-C in a terminal goes to this process only
            )

    def wait_ready(self, timeout_s: float, on_poll: Callable[[], None] = lambda: None) -> None:
        """Wait until the engine is loaded; `on_poll` may raise to abandon the wait.

        Raises:
            ServerStartError: the process ended, with the reasons from its log, or took longer than `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError):
                self.stats(POLL_TIMEOUT_S)
                return
            on_poll()
            self.check_running()
            if time.monotonic() > deadline:
                raise ServerStartError(f"the {self.kind} engine is not loaded after {timeout_s:.0f} s", self._next_step)
            time.sleep(_POLL_S)

    def check_running(self) -> None:
        """Raises ServerStartError, with the reasons from the log, if the process ended."""
        if not self.is_running:
            raise ServerStartError("\n".join(self.failure_reasons()), self._next_step)

    def stats(self, timeout_s: float = _STATS_TIMEOUT_S) -> Stats:
        """What the engine does.

        Raises:
            OSError: the process does not answer in time, or it is another engine.
        """
        self._hello = self._hello or release_hello(self.release_dir)
        try:
            return asyncio.run(asyncio.wait_for(read_stats(self.state_dir, self._hello), timeout_s))
        except asyncio.TimeoutError:
            raise TimeoutError(f"the engine process gave no answer for {timeout_s:g} s") from None

    def failure_reasons(self) -> list[str]:
        """The errors in this start's log, else its last lines."""
        with contextlib.suppress(OSError), self.log_path.open("rb") as log:
            log.seek(self.log_start if self.log_path.stat().st_size >= self.log_start else 0)
            lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
            errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
            if reasons := errors or lines[-_NUM_LAST_LINES:]:
                return [f"the {self.kind} engine ended: {reasons[0]}", *reasons[1:]]
        return [f"the {self.kind} engine ended without a word"]

    def stop(self) -> None:
        """Terminate the process and its children; requests in flight get an error."""
        if self._process is not None:
            stop_group(self._process, _TERMINATE_S)
            self._process = None

    def kill(self) -> None:
        """Kill the process and its children."""
        if self._process is not None:
            kill_group(self._process)
            self._process = None

    @property
    def _next_step(self) -> str:
        return f"read the engine's whole log: {self.log_path}"

    def _environment(self) -> dict[str, str]:
        paths = [str(self.state_dir / _SOURCE_DIR)]
        if not os.environ.get(ENGINE_PYTHON) and os.environ.get("PYTHONPATH"):
            paths.append(os.environ["PYTHONPATH"])
        return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "LLMSTACK_STATE_DIR": str(self.state_dir)}


def engine_python() -> str:
    """The Python that runs engines."""
    return os.environ.get(ENGINE_PYTHON) or sys.executable


def lay_out_source(directory: Path) -> Path:
    """Make `directory` hold links to the packages that the engine's Python imports, and nothing else.

    It must not see this environment's packages: they may contradict its own.
    """
    directory.mkdir(exist_ok=True)
    for package in _PACKAGES:
        link, target = directory / package, SOURCE_ROOT / package
        if not link.is_symlink() or link.readlink() != target:
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return directory
