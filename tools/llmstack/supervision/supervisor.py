"""Keeps one healthy server running: starts it, warms it up, watches it, and replaces the part of it that fails.

The server thread starts every server, because a server ends with the thread that started it. It checks the processes
several times a second; a second thread sends canaries. A fault that either finds is an outage, and the service is
unready until a canary succeeds again. The smallest part that may end it is replaced:

- stubs that died or hang: their models are loaded anew (`model_control`), because Triton never restarts a dead stub
- the engine process: it alone is started again (`engine_supervisor`)
- everything else, and a model that can't be loaded anew: tritonserver with all its stubs; the engine process stays
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
from llmstack.server.model_control import ModelReloadError, reload_model
from llmstack.server.process import TritonServer
from llmstack.server.shared_memory import record_regions
from llmstack.supervision.backoff import Backoff
from llmstack.supervision.canary import Canary, ProbeResult, ProbeStatus
from llmstack.supervision.engine_supervisor import EngineSupervisor
from llmstack.supervision.in_flight_requests import InFlightRequests
from llmstack.supervision.interruption import POLL_S, Interruptions, Preempted
from llmstack.supervision.ledger_maintenance import LedgerMaintenance
from llmstack.supervision.openai_supervisor import OpenAISupervisor
from llmstack.supervision.outage import Outage
from llmstack.supervision.readiness import SERVER, Readiness
from llmstack.supervision.settings import ServiceSettings
from llmstack.supervision.startup import NEXT_STEP, ServerStartup
from llmstack.supervision.stop_signals import StopRequested, StopSignals
from llmstack.supervision.stub_watch import LoadWatch, StubWatch, model_of
from llmstack.supervision.triton_statistics import StatisticsReader, TritonStatistics

T = TypeVar("T")
MAX_FAILURES_IN_ROW = 2
CANARY_TIMEOUT_S = 10.0
RETRY_S = 1.0  # between canaries until one succeeds
RELOAD_TIMEOUT_S, HEAL_TIMEOUT_S = 60.0, 20.0
# Triton 2.51 keeps 36 idle threads and 1 MB of shared memory of each stub that died with a request.
MAX_RELOADS = 20
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
    openai: OpenAISupervisor | None = None
    report: Callable[[str], None] = field(default_factory=lambda: lambda line: None, init=False)
    engine: EngineSupervisor = field(init=False)
    _interruptions: Interruptions = field(init=False)
    _backoff: Backoff = field(default_factory=Backoff, init=False)
    _reload_backoff: Backoff = field(default_factory=Backoff, init=False)
    _canary: Canary | None = field(default=None, init=False)
    _statistics: StatisticsReader | None = field(default=None, init=False)
    _stubs: StubWatch | None = field(default=None, init=False)
    _num_reloads: int = field(default=0, init=False)  # of models of this server
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _closing: threading.Event = field(default_factory=threading.Event, init=False)
    _num_failures: int = field(default=0, init=False)
    _fault: Outage | None = field(default=None, init=False)
    _outage: str = field(default="", init=False)  # the reason, from its beginning until the server is healthy again

    def __post_init__(self) -> None:
        self._interruptions = Interruptions(self.stop, self.should_yield, self.pulse)
        self.engine = EngineSupervisor(
            self.readiness, self.settings.start_timeout_s, lambda line: self.report(line), self._record_outage
        )
        self.engine.use(self.server.engine_process)
        self.engine.open()

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
            if self.openai is not None:
                self.openai.check(report)
            if self.should_yield():
                on_preempt()
            elif outage := self._find_outage():
                self._end_outage(outage)
            else:
                self.engine.check()

    def pulse(self) -> None:
        """Record that the server thread is alive."""
        self.readiness.pulse(SUPERVISOR)

    def stop_canaries(self) -> None:
        """Send no more canaries; the server runs on."""
        self._closing.set()

    def close_client(self) -> None:
        """Close the connection to the server, which waits for open connections when it stops."""
        with self._lock:
            canary, self._canary, self._fault = self._canary, None, None
            statistics, self._statistics = self._statistics, None
        if canary is not None:
            canary.close()
        if statistics is not None:
            statistics.close()

    def stop_server(self) -> None:
        """Stop the server and the engine without reporting an outage; a server in an outage is killed."""
        end = self.server.stop if self.is_healthy else self.server.kill
        self.close_client()
        end()
        self.engine.stop()

    def close(self) -> None:
        """Kill what still runs."""
        self.close_client()
        self.server.kill()
        self.engine.close()

    @property
    def is_healthy(self) -> bool:
        """Whether the server passed its last health check."""
        with self._lock:
            return self._canary is not None and self._fault is None

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
            statistics = self._statistics
        if statistics is None:
            return None
        with contextlib.suppress(httpx.HTTPError, RuntimeError, ValueError, KeyError):
            return statistics.read()
        return None

    def has_in_flight_requests(self) -> bool:
        """Whether clients' requests may be in flight in the server, according to the ledger."""
        requests = InFlightRequests(self.server.log_path.parent, self.release.manifest, self.server.boot_id)
        return requests.has_any(time.time_ns())

    def recover(self, outage: str) -> bool:
        """Restart the server until it is healthy; False when a stop or a preemption interrupts that."""
        began = time.monotonic()
        self._begin_outage(outage)
        self.close_client()
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
                self.report(f"restarted: the server is healthy again after {_seconds_since(began)}")
                return True
        return False

    def _find_outage(self) -> Outage | None:
        if self._outage:  # a start or a recovery was interrupted
            return Outage(self._outage)
        if not self.server.is_running:
            return Outage("tritonserver ended by itself")
        if self._stubs is not None and (dead := self._stubs.find_dead()):
            return Outage(f"the process of {', '.join(dead)} died", tuple(dict.fromkeys(map(model_of, dead))))
        with self._lock:
            return self._fault

    def _begin_outage(self, reason: str) -> None:
        """Mark the service unready until a health check succeeds, and report an outage that is new."""
        self.readiness.set_problem(SERVER, reason)
        self.readiness.forget_health()
        if reason != self._outage:
            self._outage = reason
            self.report(f"outage: {reason}")
            self._record_outage(reason)

    def _end_outage(self, outage: Outage) -> None:
        """Replace the stubs of the outage's models; without any, or if that does not help, restart the server."""
        if outage.models:
            try:
                self._replace_stubs(outage)
            except (StopRequested, Preempted):  # `_outage` stays: `watch` ends, or restarts the server afterwards
                return
            except (ModelReloadError, OSError, psutil.Error, httpx.HTTPError) as error:
                self.report(f"the server is restarted: {str(error).splitlines()[0]}")
            else:
                return
        self.recover(outage.reason)

    def _replace_stubs(self, outage: Outage) -> None:
        """Load the outage's models anew and wait until the ensemble is healthy.

        Raises:
            ModelReloadError: a model can't be loaded anew, or the ensemble is not healthy then.
            StopRequested, Preempted: it was interrupted.
        """
        began = time.monotonic()
        self._begin_outage(outage.reason)
        with self._lock:
            canary, self._canary, self._fault = self._canary, None, None
        if canary is None or self._stubs is None or self._statistics is None:
            raise ModelReloadError("the server was not healthy before")
        canary.close()
        self._interruptions.wait(self._reload_backoff.next_wait_s())
        for model in outage.models:
            self._reload(model, self._stubs, self._statistics)
        renewed = canary.renewed()
        try:
            probe = self._wait_healthy(renewed)
        except BaseException:
            renewed.close()
            raise
        self._serve(renewed, self._statistics, probe)
        self._reload_backoff.mark_healthy()
        names = ", ".join(outage.models)
        self.report(f"replaced: the process of {names}; the server is healthy again after {_seconds_since(began)}")

    def _reload(self, model: str, stubs: StubWatch, statistics: StatisticsReader) -> None:
        self._interruptions.check()
        if self._num_reloads >= MAX_RELOADS:
            raise ModelReloadError(f"it has replaced {MAX_RELOADS} processes since its start")
        self._num_reloads += 1
        self.readiness.count_reload(model)
        stubs.kill((model,))
        loading = LoadWatch(self.server.pid)
        url, key = self.server.http_url, self.server.admin_key

        def check_stub() -> None:
            if loading.has_dead_stub():
                raise ModelReloadError(f"the process of {model} died while it loaded")

        with statistics.reloading(model):
            self._interruptions.run(lambda: reload_model(url, key, model, RELOAD_TIMEOUT_S), check_stub)
        stubs.renew((model,))
        record_regions(self.server.log_path.parent, self.server.pid)

    def _wait_healthy(self, canary: Canary) -> ProbeResult:
        """The first canary that does not fail; an inconclusive one is no reason for a restart either."""
        deadline = time.monotonic() + HEAL_TIMEOUT_S
        while True:
            probe = self._interruptions.run(lambda: canary.probe(CANARY_TIMEOUT_S))
            if probe.status in (ProbeStatus.HEALTHY, ProbeStatus.INCONCLUSIVE):
                return probe
            if time.monotonic() > deadline or not self.server.is_running:
                raise ModelReloadError(f"the canary failed: {probe.result.error}")
            self._interruptions.wait(POLL_S)

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

        startup = ServerStartup(
            self.server, self.release, self.engine, self._interruptions, on_step, self.has_in_flight_requests
        )
        canary, statistics, probe = startup.run(on_phase, start_timeout_s or self.settings.start_timeout_s)
        self._stubs, self._num_reloads = StubWatch(self.server.pid), 0
        self._backoff.mark_healthy()
        self._serve(canary, statistics, probe)

    def _serve(self, canary: Canary, statistics: StatisticsReader, probe: ProbeResult) -> None:
        """The server is healthy according to `probe`: the service is ready, and canaries go on."""
        with self._lock:
            self._canary, self._statistics, self._num_failures, self._fault = canary, statistics, 0, None
        self._outage = ""
        self.readiness.set_canary(probe.result, is_serving=probe.is_serving)
        self.readiness.set_problem(SERVER, "")

    # The methods below run on the canary thread.

    def _send_canaries(self) -> None:
        while not self._closing.wait(self._canary_interval_s()):
            self.readiness.pulse(CANARIES)
            with self._lock:
                canary = self._canary
            if canary is not None:
                self._send(canary)

    def _canary_interval_s(self) -> float:
        interval_s = self.settings.canary_interval_s
        return interval_s if self.readiness.has_health_check else min(interval_s, RETRY_S)

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
            self._fault = Outage(_fault(probe), probe.models)


def _fault(probe: ProbeResult) -> str:
    culprits = f"{', '.join(probe.models)} hangs" if probe.models else ""
    if not probe.result.error:
        return culprits
    return f"the canary failed: {probe.result.error}{f' ({culprits})' if culprits else ''}"


def _seconds_since(began_s: float) -> str:
    return f"{time.monotonic() - began_s:.1f} s"
