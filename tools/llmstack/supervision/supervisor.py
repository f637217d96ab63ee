"""Keeps one proven server running: starts it, warms it up, watches it, starts it again.

The supervisor's own thread starts every server, because a server ends with the thread that started it. It looks at the
processes several times a second; a second thread sends canaries. What either finds wrong is an outage: the service is
unready, the whole server is killed (a dead stub doesn't come back alone) and started again until it is proven.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
import psutil

from llm_policy.release.release import Release
from llmstack.server.error import ServerStartError
from llmstack.server.process import TritonServer
from llmstack.supervision.backoff import Backoff
from llmstack.supervision.canary import Canary, HealthCheckFailed, ProbeResult, ProbeStatus, warm_up_inputs
from llmstack.supervision.in_flight_requests import InFlightRequests
from llmstack.supervision.ledger_access import LedgerAccess
from llmstack.supervision.phases import CANARY, HASHES, READINESS_ON, START, WARM_UP
from llmstack.supervision.preemption import Preempted
from llmstack.supervision.readiness import SERVER, Readiness
from llmstack.supervision.stop_signals import StopSignals
from llmstack.supervision.stub_watch import LoadWatch, StubWatch
from llmstack.supervision.triton_statistics import TritonStatistics

T = TypeVar("T")
WATCH_S = 0.25
MAX_FAILURES_IN_ROW = 2
CANARY_TIMEOUT_S = 10.0
WARM_UP_TIMEOUT_S = 60.0
SUPERVISOR, CANARIES = "supervisor", "canary"


@dataclass
class Supervisor:
    """`start` and then `watch`, both on the thread that shall own the server, and `stop_canaries` at the end.

    `on_step` is told what the first start is at. Whenever `should_yield` says so, whatever the supervisor waits for is
    left off: a start that hangs must not keep anybody from going back to another release.
    """

    server: TritonServer
    release: Release
    readiness: Readiness
    books: LedgerAccess
    stop: StopSignals
    start_timeout_s: float
    canary_interval_s: float
    on_step: Callable[[str], None]
    should_yield: Callable[[], bool] = lambda: False
    report: Callable[[str], None] = field(default_factory=lambda: lambda line: None, init=False)
    _backoff: Backoff = field(default_factory=Backoff, init=False)
    _canary: Canary | None = field(default=None, init=False)
    _stubs: StubWatch | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _closing: threading.Event = field(default_factory=threading.Event, init=False)
    _num_failures: int = field(default=0, init=False)
    _fault: str = field(default="", init=False)
    _outage: str = field(default="", init=False)  # why the server is not proven, since it was last

    def start(self, prepare: Callable[[], None]) -> None:
        """`prepare`, then start the server for the first time and prove it.

        When somebody wants a turn meanwhile, `watch` goes on from there.

        Raises:
            ServerStartError: it doesn't start, or doesn't answer as it should.
            StopRequested: somebody asked to stop meanwhile.
        """
        self._outage = _UNPROVEN
        with contextlib.suppress(Preempted):
            prepare()
            self.bring_up()
        threading.Thread(target=self._send_canaries, name=CANARIES, daemon=True).start()

    def watch(self, report: Callable[[str], None], on_preempt: Callable[[], None]) -> None:
        """Look after the server until a stop is asked for, and recover from every outage; `report` gets lines.

        Whenever `should_yield` says so, also while the server can't be recovered, `on_preempt` has the server to itself.
        """
        self.report, self.on_step = report, lambda text: None
        while not self.stop.wait(WATCH_S):
            self.readiness.pulse(SUPERVISOR)
            if self.should_yield():
                on_preempt()
            elif outage := self._find_outage():
                self.recover(outage)

    def pulse(self) -> None:
        """The thread that owns the server is alive."""
        self.readiness.pulse(SUPERVISOR)

    def stop_canaries(self) -> None:
        """No more canaries; the server is left as it is."""
        self._closing.set()

    def close_client(self) -> None:
        """Close the connection to the server: it would wait for that when it is to end."""
        self._drop_canary()

    def stop_server(self) -> None:
        """Stop the server, at once where it is in an outage; nobody is told of one."""
        end = self.server.stop if self.is_healthy else self.server.kill
        self._drop_canary()
        end()

    @property
    def is_healthy(self) -> bool:
        """Whether the server answers as it should, as far as is known."""
        with self._lock:
            return self._canary is not None and not self._fault

    def run_interruptibly(self, work: Callable[[], T]) -> T:
        """Do long work on a thread of its own, while this one shows that it lives.

        Raises:
            StopRequested: somebody asked to stop meanwhile; nobody waits for the work any more.
            Preempted: somebody wants a turn; the same.
        """
        future: futures.Future[T] = futures.Future()
        threading.Thread(target=_settle, args=(future, work), name="aside", daemon=True).start()
        while not futures.wait([future], timeout=WATCH_S).done:
            self._check()
        return future.result()

    def bring_up(
        self, on_phase: Callable[[str], None] = lambda phase: None, start_timeout_s: float | None = None
    ) -> None:
        """Start, wait, warm up and prove; the service is ready at the end. `on_phase` hears of each of `PHASES` before.

        Raises:
            ServerStartError: it doesn't start, or doesn't answer as it should; it may run all the same.
            StopRequested: somebody asked to stop meanwhile.
            Preempted: somebody wants a turn.
        """
        self._outage = _UNPROVEN
        try:
            self._bring_up("", on_phase, start_timeout_s)
        except (OSError, psutil.Error) as error:
            raise ServerStartError(f"the server can't be started: {error}", _NEXT_STEP) from None

    @property
    def live_boot_id(self) -> str:
        """The boot id of the server that runs; empty while none does."""
        return self.server.boot_id if self.server.is_running else ""

    def statistics(self) -> TritonStatistics | None:
        """What Triton counts; None while no server runs or it doesn't tell."""
        with self._lock:
            canary = self._canary
        if canary is None:
            return None
        with contextlib.suppress(httpx.HTTPError, RuntimeError, ValueError, KeyError):
            return canary.statistics()
        return None

    def has_in_flight_requests(self) -> bool:
        """Whether calls of clients may still be under way in the server, as far as the ledger knows."""
        calls = InFlightRequests(self.server.log_path.parent, self.release.manifest, self.server.boot_id)
        return calls.may_wait(time.time_ns())

    def _find_outage(self) -> str:
        if self._outage:  # a start or a recovery was left off
            return self._outage
        if not self.server.is_running:
            return "tritonserver ended by itself"
        if self._stubs is not None and (dead := self._stubs.find_dead()):
            return f"the process of {', '.join(dead)} died"
        with self._lock:
            return self._fault

    def recover(self, outage: str) -> bool:
        """Start the server again until it is proven; False when a stop is asked for, or somebody wants a turn."""
        began = time.monotonic()
        self.readiness.set_problem(SERVER, outage)
        self._drop_canary()
        if outage != self._outage:
            self._outage = outage
            self.report(f"outage: {outage}")
            self._tell_books(outage)
        while not self._is_interrupted():
            self.server.kill()
            self._wait(self._backoff.next_s())
            if self._is_interrupted():
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
                self._tell_books(failure)  # an outage that lasts is told again, as often as the windows let it
            else:
                self.report(f"restarted: the server is proven again after {time.monotonic() - began:.1f} s")
                return True
        return False

    def _is_interrupted(self) -> bool:
        return self.stop.is_asked or self.should_yield()

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0 and not self.stop.wait(min(left_s, 1.0)):
            self.readiness.pulse(SUPERVISOR)
            if self.should_yield():
                return

    def _tell_books(self, outage: str) -> None:
        """A ledger that can't be written must not keep the server from coming back; its own part says so."""
        try:
            self.books.record_engine_unhealthy(time.time_ns(), outage)
        except Exception as error:
            self.report(f"the outage could not be recorded: {error}")

    def _bring_up(
        self,
        prefix: str,
        on_phase: Callable[[str], None] = lambda phase: None,
        start_timeout_s: float | None = None,
    ) -> None:
        on_phase(START)
        self._step(f"{prefix}starting tritonserver with the {self.server.engine} engine")
        # Whoever took the port of Triton's own metrics meanwhile may keep it.
        self.server.ports = self.server.ports._replace(metrics=0)
        self.server.start()
        loading = LoadWatch(self.server.pid)
        self.server.wait_ready(start_timeout_s or self.start_timeout_s, lambda: self._check_loading(loading))
        canary = Canary(self.server, self.release, self.has_in_flight_requests)
        try:
            on_phase(HASHES)
            self._prove("the engine's hash", lambda: canary.prove_engine(WARM_UP_TIMEOUT_S))
            on_phase(WARM_UP)
            for what, inputs in warm_up_inputs(self.release).items():
                self._step(f"{prefix}warming up {what}")
                self._check()
                self._prove(what, lambda i=inputs: canary.prove(i, WARM_UP_TIMEOUT_S))  # type: ignore[misc]
            on_phase(CANARY)
            self._step(f"{prefix}proving the ensemble")
            finding = self.run_interruptibly(lambda: canary.probe(WARM_UP_TIMEOUT_S))
            if finding.verdict is not ProbeStatus.PROVEN:
                raise ServerStartError(f"the canary failed: {finding.result.error}", _NEXT_STEP)
            on_phase(READINESS_ON)
        except BaseException:
            canary.close()
            raise
        self._stubs = StubWatch(self.server.pid)
        with self._lock:
            self._canary, self._num_failures, self._fault = canary, 0, ""
        self._outage = ""
        self._backoff.mark_healthy()
        self.readiness.set_canary(finding.result, is_proof=True)
        self.readiness.set_problem(SERVER, "")

    def _step(self, text: str) -> None:
        self.readiness.pulse(SUPERVISOR)
        self.readiness.set_problem(SERVER, text)
        self.on_step(text)

    def _check(self) -> None:
        self.readiness.pulse(SUPERVISOR)
        self.stop.check()
        if self.should_yield():
            raise Preempted

    def _check_loading(self, loading: LoadWatch) -> None:
        self._check()
        if loading.has_lost_one():
            raise ServerStartError("the process of a model died while it loaded", _NEXT_STEP)

    def _prove(self, what: str, attempt: Callable[[], None]) -> None:
        try:
            self.run_interruptibly(attempt)
        except (HealthCheckFailed, httpx.HTTPError) as error:
            reason = "no answer in time" if isinstance(error, httpx.TimeoutException) else error
            raise ServerStartError(f"warming up {what} failed: {reason}", _NEXT_STEP) from None

    def _drop_canary(self) -> None:
        with self._lock:
            canary, self._canary, self._fault = self._canary, None, ""
        if canary is not None:
            canary.close()

    # What follows runs on the canary's thread.

    def _send_canaries(self) -> None:
        while not self._closing.wait(self.canary_interval_s):
            self.readiness.pulse(CANARIES)
            with self._lock:
                canary = self._canary
            if canary is not None:
                self._send(canary)

    def _send(self, canary: Canary) -> None:
        try:
            finding = canary.probe(CANARY_TIMEOUT_S)
        except RuntimeError:  # closed meanwhile: an outage was found otherwise
            return
        with self._lock:
            if canary is not self._canary:
                return
            self._judge(finding)
        self.readiness.set_canary(finding.result, is_proof=finding.is_proof)

    def _judge(self, finding: ProbeResult) -> None:
        failed = finding.verdict in (ProbeStatus.FAILED, ProbeStatus.DEAD)
        self._num_failures = self._num_failures + 1 if failed else 0
        if finding.verdict is ProbeStatus.DEAD or self._num_failures >= MAX_FAILURES_IN_ROW:
            self._fault = f"the canary failed: {finding.result.error}"


def _settle(future: futures.Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # for whoever waits
        future.set_exception(error)


_UNPROVEN = "the server was not proven"
_NEXT_STEP = "read the server's log in the state directory; llmstack manifest verify checks the release"
