"""Keeps the process of the OpenAI API running, apart from the server and the engine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from llmstack.server.openai_process import OpenAIProcess
from llmstack.supervision.backoff import STABLE_S, Backoff
from llmstack.supervision.readiness import OPENAI, OpenAIState, Readiness


@dataclass
class OpenAISupervisor:
    """Supervises `process`. Everything is called on the server thread, which the process ends with."""

    process: OpenAIProcess
    readiness: Readiness
    now_s: Callable[[], float] = time.monotonic
    _backoff: Backoff = field(default_factory=Backoff, init=False)
    _num_restarts: int = field(default=0, init=False)
    _started_at_s: float = field(default=0.0, init=False)
    _start_due_s: float | None = field(default=None, init=False)  # while it is down
    _is_started: bool = field(default=False, init=False)

    def start(self) -> None:
        """Start the process.

        Raises:
            OSError: it can't be started.
        """
        self._is_started = True
        self.process.start()
        self._started_at_s = self.now_s()
        self._publish()

    def check(self, report: Callable[[str], None]) -> None:
        """Start a process again that died, when that is due; `report` receives a line for each death and restart."""
        if not self._is_started:
            return
        if self._start_due_s is not None:
            if self.now_s() >= self._start_due_s:
                self._start_again(report)
        elif not self.process.is_running:
            self._go_down("the process of the OpenAI API died", report)
        elif self.now_s() - self._started_at_s > STABLE_S:
            self._backoff.mark_healthy()

    def use(self, release_dir: Path) -> None:
        """Serve under the names of this release from now on."""
        self.process.release_dir = release_dir
        if self._is_started:
            self.process.stop()
            self._start_due_s = None
            with contextlib.suppress(OSError):  # `check` finds that it does not run
                self.start()

    def stop(self) -> None:
        """Terminate the process. That is no outage."""
        self._is_started, self._start_due_s = False, None
        self.process.stop()
        self._publish()

    def close(self) -> None:
        """Kill the process."""
        self._is_started = False
        self.process.kill()

    def _go_down(self, fault: str, report: Callable[[str], None]) -> None:
        self.process.kill()
        report(f"outage: {fault}")
        self.readiness.set_problem(OPENAI, fault)
        self._start_due_s = self.now_s() + self._backoff.next_wait_s()
        self._publish()

    def _start_again(self, report: Callable[[str], None]) -> None:
        self._start_due_s = None
        self._num_restarts += 1
        try:
            self.start()
        except OSError as error:
            self._go_down(f"the process of the OpenAI API can't be started: {error}", report)
        else:
            self.readiness.set_problem(OPENAI, "")
            report("restarted: the process of the OpenAI API")

    def _publish(self) -> None:
        self.readiness.set_openai(OpenAIState(self.process.pid, self.process.port, self._num_restarts))
