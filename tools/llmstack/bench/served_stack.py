"""`llmstack serve` as a process of its own, for benchmarks that kill parts of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from llmstack.bench.process_start import wait_until_ready
from llmstack.client.ensemble_client import ServerUrls
from llmstack.server.ports import Ports
from llmstack.supervision.stub_watch import STUB

_HOST = "127.0.0.1"
_STOP_S, _LEFT_S = 60.0, 5.0
_CANARY_INTERVAL_S = 30  # the longest: a canary takes a place in the batch


class ServedStack:
    """A supervised server on free ports. `with` starts it and waits until it is ready.

    `start_s` is the time that took, from the start of the process. Its output is in `state_dir`/serve.log.
    """

    def __init__(
        self, release_dir: Path, engine: str, state_dir: Path, options: Mapping[str, str], start_timeout_s: float
    ) -> None:
        self.state_dir = state_dir
        ports = [*Ports().choose(_HOST), Ports().choose(_HOST).http]
        self.urls = ServerUrls(f"http://{_HOST}:{ports[0]}", f"{_HOST}:{ports[1]}")
        self.start_s = 0.0
        self.ready_port = ports[3]
        self._ready_url = f"http://{_HOST}:{self.ready_port}/readyz"
        self._timeout_s = start_timeout_s
        names = ("--http-port", "--grpc-port", "--metrics-port", "--ready-port")
        self._command = [
            *(sys.executable, "-m", "llmstack", "serve", "--engine", engine),
            *("--release", str(release_dir), "--state-dir", str(state_dir)),
            *(word for name, port in zip(names, ports, strict=True) for word in (name, str(port))),
            *("--no-require-api-keys", "--no-openai"),
            *("--canary-interval-secs", str(_CANARY_INTERVAL_S), "--start-timeout-secs", str(start_timeout_s)),
            *(word for key, value in options.items() for word in ("--engine-option", f"{key}={value}")),
        ]

    def __enter__(self) -> ServedStack:
        self.state_dir.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until_ready(self._process, self._is_ready, self._timeout_s, "the stack", self.log_path)
        except BaseException:
            self._stop()
            raise
        self.start_s = time.monotonic() - began
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """The parent process of everything that serves."""
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """The output of the parent process."""
        return self.state_dir / "serve.log"

    def readiness(self) -> dict[str, Any]:
        """The document of /readyz; empty while nothing answers."""
        try:
            return dict(httpx.get(self._ready_url, timeout=5, trust_env=False).json())
        except (httpx.HTTPError, ValueError):
            return {}

    @property
    def engine_pid(self) -> int | None:
        """The engine's process id; None if it is not a process of its own."""
        engine = self.readiness().get("engine_process") or {}
        return engine.get("pid")

    def kill_stub(self, model: str) -> None:
        """Kill the Python process of one model.

        Raises:
            LookupError: there is none.
        """
        for process in self._descendants():
            if process.name() == STUB and any(word.startswith(f"{model}_0") for word in process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
                return
        raise LookupError(model)

    def _is_ready(self) -> bool:
        return bool(self.readiness().get("ready"))

    def _stop(self) -> None:
        """Stop the parent process, and kill whatever it leaves."""
        descendants = self._descendants()
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        _, alive = psutil.wait_procs(descendants, timeout=_LEFT_S)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=_STOP_S)

    def _descendants(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []
