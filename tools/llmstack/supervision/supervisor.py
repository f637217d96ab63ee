"""Keeps one healthy server running: starts it, warms it up, watches it, restarts it.

The server thread starts every server, because a server ends with the thread that started it. It checks the processes
several times a second; a second thread sends canaries. A fault that either finds is an outage: the service is unready,
the whole server is killed, because Triton never restarts a dead stub, and it is started again until it is healthy.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
import psutil

from llm_policy.release.release import Release
from llmstack.server.error import ServerStartError
from llmstack.server.process import TritonServer
from llmstack.supervision.backoff import Backoff
from llmstack.supervision.canary import Canary, ProbeResult, ProbeStatus
from llmstack.supervision.in_flight_requests import InFlightRequests
from llmstack.supervision.interruption import POLL_S, Interruptions, Preempted
from llmstack.supervision.ledger_maintenance import LedgerMaintenance
from llmstack.supervision.readiness import SERVER, Readiness
from llmstack.supervision.settings import ServiceSettings
from llmstack.supervision.startup import NEXT_STEP, ServerStartup
from llmstack.supervision.stop_signals import StopSignals
from llmstack.supervision.stub_watch import StubWatch
from llmstack.supervision.triton_statistics import TritonStatistics

T = TypeVar("T")
MAX_FAILURES_IN_ROW = 2
CANARY_TIMEOUT_S = 10.0
SUPERVISOR, CANARIES = "supervisor", "canary"
_NOT_HEALTHY_YET = "the server is not healthy yet"


@dataclass
class Supervisor:
    """Call `start` and then `watch` on the thread that owns the server, and `stop_canaries` at the end.

    `on_step` receives a description of each step of the first start. When `should_yield` returns True, whatever the
    supervisor waits for is abandoned, so a start that hangs does not block a change to another release.
    """

    server: TritonServer
    release: Release
    readiness: Readiness
    ledger: LedgerMaintenance
    stop: StopSignals
    settings: ServiceSettings
    on_step: Callable[[str], None]
    should_yield: Callable[[], bool] = lambda: False
    report: Callable[[str], None] = field(default_factory=lambda: lambda line: None, init=False)
    _interruptions: Interruptions = field(init=False)
    _backoff: Backoff = field(default_factory=Backoff, init=False)
    _canary: Canary | None = field(default=None, init=False)
    _stubs: StubWatch | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _closing: threading.Event = field(default_factory=threading.Event, init=False)
    _num_failures: int = field(default=0, init=False)
    _fault: str = field(default="", init=False)
    _outage: str = field(default="", init=False)  # the reason, from its beginning until the server is healthy again

    def __post_init__(self) -> None:
        self._interruptions = Interruptions(self.stop, self.should_yield, self.pulse)

    def start(self, prepare: Callable[[], None]) -> None:
        """Call `prepare`, then start the server for the first time and wait until it is healthy.

        A preempted start is continued by `watch`.

        Raises:
            ServerStartError: the server doesn't start or fails a health check.
            StopRequested: a stop is requested.
        """
        self._outage = _NOT_HEALTHY_YET
        with contextlib.suppress(Preempted):
            prepare()
            self.bring_up()
        threading.Thread(target=self._send_canaries, name=CANARIES, daemon=True).start()

    def watch(self, report: Callable[[str], None], on_preempt: Callable[[], None]) -> None:
        """Watch the server until a stop is requested, and recover from every outage.

        `report` receives a line for each outage and recovery. When `should_yield` returns True, also during a
        recovery, `on_preempt` is called and has exclusive use of the server.
        """
        self.report, self.on_step = report, lambda text: None
        while not self.stop.wait(POLL_S):
            self.pulse()
            if self.should_yield():
                on_preempt()
            elif outage := self._find_outage():
                self.recover(outage)

    def pulse(self) -> None:
        """Record that the server thread is alive."""
        self.readiness.pulse(SUPERVISOR)

    def stop_canaries(self) -> None:
        """Send no more canaries; the server runs on."""
        self._closing.set()

    def close_client(self) -> None:
        """Close the connection to the server, which waits for open connections when it stops."""
        with self._lock:
            canary, self._canary, self._fault = self._canary, None, ""
        if canary is not None:
            canary.close()

    def stop_server(self) -> None:
        """Stop the server without reporting an outage; one in an outage is killed."""
        end = self.server.stop if self.is_healthy else self.server.kill
        self.close_client()
        end()

    @property
    def is_healthy(self) -> bool:
        """Whether the server passed its last health check."""
        with self._lock:
            return self._canary is not None and not self._fault

    def run_interruptibly(self, work: Callable[[], T]) -> T:
        """Run long work on a thread of its own; see `Interruptions.run`."""
        return self._interruptions.run(work)

    def bring_up(
        self, on_phase: Callable[[str], None] = lambda phase: None, start_timeout_s: float | None = None
    ) -> None:
        """Start the server and mark the service ready once it is healthy; `on_phase` receives each of `PHASES`.

        Raises:
            ServerStartError: the server doesn't start or fails a health check; its process may still run.
            StopRequested: a stop is requested.
            Preempted: a release change needs the server.
        """
        self._outage = _NOT_HEALTHY_YET
        try:
            self._bring_up("", on_phase, start_timeout_s)
        except (OSError, psutil.Error) as error:
            raise ServerStartError(f"the server can't be started: {error}", NEXT_STEP) from None

    @property
    def live_boot_id(self) -> str:
        """The boot id of the running server; empty while none runs."""
        return self.server.boot_id if self.server.is_running else ""

    def statistics(self) -> TritonStatistics | None:
        """Triton's request counts; None while no server runs or it doesn't answer."""
        with self._lock:
            canary = self._canary
        if canary is None:
            return None
        with contextlib.suppress(httpx.HTTPError, RuntimeError, ValueError, KeyError):
            return canary.statistics()
        return None

    def has_in_flight_requests(self) -> bool:
        """Whether clients' requests may be in flight in the server, according to the ledger."""
        requests = InFlightRequests(self.server.log_path.parent, self.release.manifest, self.server.boot_id)
        return requests.has_any(time.time_ns())

    def recover(self, outage: str) -> bool:
        """Restart the server until it is healthy; False when a stop or a preemption interrupts that."""
        began = time.monotonic()
        self.readiness.set_problem(SERVER, outage)
        self.close_client()
        if outage != self._outage:
            self._outage = outage
            self.report(f"outage: {outage}")
            self._record_outage(outage)
        while not self._interruptions.is_pending:
            self.server.kill()
            self._interruptions.wait(self._backoff.next_wait_s())
            if self._interruptions.is_pending:
                break
            self.readiness.count_restart()
            try:
                self._bring_up(f"{outage}; ")
            except Preempted:
                break
            except (ServerStartError, OSError, psutil.Error) as error:
                failure = f"{outage}; the restart failed: {str(error).splitlines()[0]}"
                self.report(f"restart failed: {error}")
                self.readiness.set_problem(SERVER, failure)
                self._record_outage(failure)  # a lasting outage is reported again, at most once per alert window
            else:
                self.report(f"restarted: the server is healthy again after {time.monotonic() - began:.1f} s")
                return True
        return False

    def _find_outage(self) -> str:
        if self._outage:  # a start or a recovery was interrupted
            return self._outage
        if not self.server.is_running:
            return "tritonserver ended by itself"
        if self._stubs is not None and (dead := self._stubs.find_dead()):
            return f"the process of {', '.join(dead)} died"
        with self._lock:
            return self._fault

    def _record_outage(self, outage: str) -> None:
        """An unwritable ledger must not keep the server down; housekeeping reports that fault on /readyz."""
        try:
            self.ledger.record_engine_unhealthy(time.time_ns(), outage)
        except Exception as error:
            self.report(f"the outage could not be recorded: {error}")

    def _bring_up(
        self,
        prefix: str,
        on_phase: Callable[[str], None] = lambda phase: None,
        start_timeout_s: float | None = None,
    ) -> None:
        def on_step(text: str) -> None:
            self.pulse()
            self.readiness.set_problem(SERVER, prefix + text)
            self.on_step(prefix + text)

        startup = ServerStartup(self.server, self.release, self._interruptions, on_step, self.has_in_flight_requests)
        canary, probe = startup.run(on_phase, start_timeout_s or self.settings.start_timeout_s)
        self._stubs = StubWatch(self.server.pid)
        with self._lock:
            self._canary, self._num_failures, self._fault = canary, 0, ""
        self._outage = ""
        self._backoff.mark_healthy()
        self.readiness.set_canary(probe.result, is_serving=True)
        self.readiness.set_problem(SERVER, "")

    # The methods below run on the canary thread.

    def _send_canaries(self) -> None:
        while not self._closing.wait(self.settings.canary_interval_s):
            self.readiness.pulse(CANARIES)
            with self._lock:
                canary = self._canary
            if canary is not None:
                self._send(canary)

    def _send(self, canary: Canary) -> None:
        try:
            probe = canary.probe(CANARY_TIMEOUT_S)
        except RuntimeError:  # the client was closed: the server thread found an outage
            return
        with self._lock:
            if canary is not self._canary:
                return
            self._count_failure(probe)
        self.readiness.set_canary(probe.result, is_serving=probe.is_serving)

    def _count_failure(self, probe: ProbeResult) -> None:
        failed = probe.status in (ProbeStatus.FAILED, ProbeStatus.DEAD)
        self._num_failures = self._num_failures + 1 if failed else 0
        if probe.status is ProbeStatus.DEAD or self._num_failures >= MAX_FAILURES_IN_ROW:
            self._fault = f"the canary failed: {probe.result.error}"
