"""Keeps the engine process running, apart from the server: it loads the weights again only when it failed itself.

An engine is judged by its progress, not by its queue: it is started again when its process ended, when it has work and
has taken no step for `MAX_STEP_AGE_S`, when it does not answer for `MAX_SILENCE_S`, and when it is not loaded in time.
The server stays and answers `engine_unavailable` meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from engine_process.messages import Stats
from llmstack.server.engine_process import POLL_TIMEOUT_S, EngineProcess
from llmstack.supervision.backoff import Backoff
from llmstack.supervision.readiness import ENGINE, EngineState, Readiness

POLL_S = 1.0
MAX_STEP_AGE_S = 60.0
MAX_SILENCE_S = 30.0
# After this silence a canary's timeout is the engine's, whose own limit decides.
NOTICED_SILENCE_S = 5.0
# Clients of an engine that was just loaded connect within this time.
SETTLE_S = 10.0
ENGINE_POLL = "engine poll"


@dataclass(frozen=True)
class _Start:
    """One start of the process, on the monotonic clock, and its last answer."""

    began_s: float
    loaded_s: float | None = None
    answered_s: float | None = None
    stats: Stats | None = None


@dataclass
class EngineSupervisor:
    """Supervises `process`; without one, for an engine inside tritonserver, it does nothing.

    `start`, `stop`, `use` and `check` are called on the server thread, which the process ends with. A thread of its own
    polls the process, from `open` to `close`. `on_outage` receives the reason of each outage, and of each start that
    fails; `report` a line for the terminal.
    """

    readiness: Readiness
    load_timeout_s: float
    report: Callable[[str], None]
    on_outage: Callable[[str], None]
    now_s: Callable[[], float] = time.monotonic
    process: EngineProcess | None = field(default=None, init=False)
    _backoff: Backoff = field(default_factory=Backoff, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _closing: threading.Event = field(default_factory=threading.Event, init=False)
    _start: _Start | None = field(default=None, init=False)
    _start_due_s: float | None = field(default=None, init=False)  # the time of the next start, while it is down
    _outage_began_s: float | None = field(default=None, init=False)  # until it is loaded again
    _num_restarts: int = field(default=0, init=False)

    def open(self) -> None:
        """Begin to poll."""
        threading.Thread(target=self._poll, name=ENGINE_POLL, daemon=True).start()

    def close(self) -> None:
        """Kill the process and poll no more."""
        self._closing.set()
        self._end(lambda process: process.kill())

    def use(self, process: EngineProcess | None) -> None:
        """Supervise this process from now on; the one before is killed."""
        self._end(lambda before: before.kill())
        self.process = process
        self._publish()

    def start(self) -> None:
        """Start the process unless it runs and makes progress.

        Raises:
            OSError: it can't be started.
        """
        if self.process is not None and self.find_fault():
            self._launch(self.process)

    def stop(self) -> None:
        """Terminate the process. That is no outage."""
        self._end(lambda process: process.stop())

    def check(self) -> None:
        """Find an outage, start the process again when that is due, or find that it is loaded; never waits for it."""
        process = self.process
        if process is None:
            return
        if self._start_due_s is not None:
            if self.now_s() >= self._start_due_s:
                self._start_again(process)
        elif fault := self.find_fault():
            self._go_down(process, fault)
        elif self._outage_began_s is not None and self.is_loaded:
            self._recover(process)

    def find_fault(self) -> str:
        """Why the process has to be started; empty if it runs, and loads or makes progress."""
        process, start = self.process, self._read()
        if process is None:
            return ""
        if start is None:
            return "the engine process is not started"
        if not process.is_running:
            return "the engine process died"
        now_s, stats = self.now_s(), start.stats
        if start.answered_s is None or stats is None:
            is_late = now_s - start.began_s > self.load_timeout_s
            return f"the engine is not loaded after {self.load_timeout_s:.0f} s" if is_late else ""
        if now_s - start.answered_s > MAX_SILENCE_S:
            return f"the engine process has given no answer for {now_s - start.answered_s:.0f} s"
        if _has_work(stats) and stats.last_step_age_s > MAX_STEP_AGE_S:
            return f"the engine has work and took no step for {stats.last_step_age_s:.0f} s"
        return ""

    @property
    def is_down(self) -> bool:
        """Whether the process is in an outage that `check` ends."""
        return self._outage_began_s is not None

    @property
    def is_loaded(self) -> bool:
        """Whether this start of the process has answered."""
        start = self._read()
        return start is not None and start.loaded_s is not None

    @property
    def is_settled(self) -> bool:
        """Whether it has been serving for `SETTLE_S`."""
        start = self._read()
        return start is not None and start.loaded_s is not None and self.now_s() - start.loaded_s > SETTLE_S

    @property
    def is_busy(self) -> bool:
        """Whether a request may wait for it without a fault of the server: it has work, or does not answer for now."""
        start = self._read()
        if start is None or start.answered_s is None or start.stats is None or self.find_fault():
            return False
        return _has_work(start.stats) or self.now_s() - start.answered_s > NOTICED_SILENCE_S

    def has_streams(self) -> bool:
        """Whether the engine generates for a stream now; False if it does not answer."""
        try:
            return self.process is not None and self.process.stats(POLL_TIMEOUT_S).streaming > 0
        except OSError:
            return False

    def _go_down(self, process: EngineProcess, fault: str) -> None:
        is_first = self._outage_began_s is None
        self._outage_began_s = self.now_s() if is_first else self._outage_began_s
        details = process.failure_reasons() if not process.is_running else []
        self._end(lambda running: running.kill())
        self.readiness.set_problem(ENGINE, fault)
        self.readiness.forget_health()
        self.report(f"outage: {fault}" if is_first else f"restart of the engine failed: {fault}")
        for line in details:
            self.report(f"  {line}")
        self.on_outage(fault)
        self._start_due_s = self.now_s() + self._backoff.next_wait_s()

    def _start_again(self, process: EngineProcess) -> None:
        self._start_due_s = None
        try:
            self._launch(process)
        except OSError as error:
            self._go_down(process, f"the engine process can't be started: {error}")
        else:
            self.readiness.set_problem(ENGINE, "the engine is started again and loads the weights")

    def _recover(self, process: EngineProcess) -> None:
        seconds = self.now_s() - (self._outage_began_s or 0.0)
        self._outage_began_s = None
        self._backoff.mark_healthy()
        self.readiness.set_problem(ENGINE, "")
        self.report(f"restarted: the {process.kind} engine is loaded again after {seconds:.1f} s")

    def _launch(self, process: EngineProcess) -> None:
        self._end(lambda running: running.kill())
        self._num_restarts += process.started_at > 0
        process.start()
        with self._lock:
            self._start = _Start(self.now_s())
        self._publish()

    def _end(self, end: Callable[[EngineProcess], None]) -> None:
        with self._lock:
            self._start, self._start_due_s = None, None
        if self.process is not None:
            end(self.process)

    def _read(self) -> _Start | None:
        with self._lock:
            return self._start

    # The methods below run on the poll thread, too.

    def _poll(self) -> None:
        while not self._closing.wait(POLL_S):
            process, start = self.process, self._read()
            if process is not None and start is not None:
                with contextlib.suppress(OSError):
                    self._note(start, process.stats(MAX_SILENCE_S))
            self._publish()

    def _note(self, asked: _Start, stats: Stats) -> None:
        now_s = self.now_s()
        with self._lock:
            if self._start is not None and self._start.began_s == asked.began_s:
                self._start = replace(asked, loaded_s=asked.loaded_s or now_s, answered_s=now_s, stats=stats)

    def _publish(self) -> None:
        process, start = self.process, self._read()
        if process is None:
            self.readiness.set_engine_process(None)
            return
        is_running = start is not None and process.is_running
        pid = None
        with contextlib.suppress(RuntimeError):  # it ended in between
            pid = process.pid if is_running else None
        self.readiness.set_engine_process(
            EngineState(
                process.kind, pid, process.started_at or None, self._num_restarts, start.stats if start else None
            )
        )


def _has_work(stats: Stats) -> bool:
    return stats.running + stats.waiting > 0
