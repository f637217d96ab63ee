"""Starting a server: load the models, check the engine's hash, warm up every task and schema, run the first canary.

The engine process is started first, unless it runs: it loads the weights while the server loads its models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import httpx

from llm_policy.release.release import Release
from llmstack.server.command import ADMIN_KEY_HEADER
from llmstack.server.error import ServerStartError
from llmstack.server.process import TritonServer
from llmstack.supervision.canary import Canary, HealthCheckFailed, ProbeResult, ProbeStatus, warm_up_inputs
from llmstack.supervision.engine_supervisor import EngineSupervisor
from llmstack.supervision.interruption import Interruptions
from llmstack.supervision.stub_watch import LoadWatch
from llmstack.supervision.triton_statistics import StatisticsReader

# The phases of a start, in order, as the journal of a release change records them.
START, HASHES, WARM_UP, CANARY, READINESS_ON = PHASES = ("start", "hashes", "warm_up", "canary", "readiness_on")
WARM_UP_TIMEOUT_S = 60.0
NEXT_STEP = "read the server's log in the state directory; llmstack manifest verify checks the release"


class HealthyServer(NamedTuple):
    """What a start leaves: the open canary and statistics, and the result of the first canary."""

    canary: Canary
    statistics: StatisticsReader
    probe: ProbeResult


class ServerStartup:
    """Starts `server` on `release`, and `engine` unless it runs, on the thread that owns them.

    `on_step` receives a description of each step. `has_in_flight_requests` is the canary's: see `Canary`.
    """

    def __init__(
        self,
        server: TritonServer,
        release: Release,
        engine: EngineSupervisor,
        interruptions: Interruptions,
        on_step: Callable[[str], None],
        has_in_flight_requests: Callable[[], bool],
    ) -> None:
        self._server, self._release, self._engine, self._interruptions = server, release, engine, interruptions
        self._on_step, self._has_in_flight_requests = on_step, has_in_flight_requests

    def run(self, on_phase: Callable[[str], None], timeout_s: float) -> HealthyServer:
        """Start the server and wait until it is healthy; `timeout_s` limits the loading of the models.

        `on_phase` is called with each of `PHASES` as it begins.

        Raises:
            ServerStartError: the server doesn't start or fails a health check; its process may still run.
            OSError, psutil.Error: the process can't be started or inspected.
            StopRequested, Preempted: the start was interrupted.
        """
        on_phase(START)
        self._load_models(timeout_s)
        admin_headers = {ADMIN_KEY_HEADER: self._server.admin_key}
        statistics = StatisticsReader(self._server.http_url, admin_headers, self._server.entry_model)
        progress = self._engine if self._engine.process is not None else None
        canary = Canary(self._server, self._release, statistics, self._has_in_flight_requests, progress)
        try:
            on_phase(HASHES)
            self._health_check("the engine's hash", lambda: canary.check_engine(WARM_UP_TIMEOUT_S))
            on_phase(WARM_UP)
            self._warm_up(canary)
            on_phase(CANARY)
            probe = self._send_canary(canary)
            on_phase(READINESS_ON)
        except BaseException:
            canary.close()
            statistics.close()
            raise
        return HealthyServer(canary, statistics, probe)

    def _load_models(self, timeout_s: float) -> None:
        self._on_step(f"starting tritonserver with the {self._server.engine} engine")
        # A new free port: another process may have taken the last one of Triton's own metrics.
        self._server.ports = self._server.ports._replace(metrics=0)
        self._engine.start()
        self._server.start()
        loading = LoadWatch(self._server.pid)

        def on_poll() -> None:
            self._interruptions.check()
            if loading.has_dead_stub():
                raise ServerStartError("the process of a model died while it loaded", NEXT_STEP)
            engine = self._engine.process
            if engine is not None and engine.is_running and (fault := self._engine.find_fault()):
                raise ServerStartError(fault, NEXT_STEP)

        if self._engine.process is not None:
            self._engine.process.wait_ready(timeout_s, on_poll)
        self._server.wait_ready(timeout_s, on_poll)

    def _warm_up(self, canary: Canary) -> None:
        for what, inputs in warm_up_inputs(self._release).items():
            self._on_step(f"warming up {what}")
            self._interruptions.check()
            self._health_check(what, lambda i=inputs: canary.check(i, WARM_UP_TIMEOUT_S))  # type: ignore[misc]

    def _health_check(self, what: str, attempt: Callable[[], None]) -> None:
        try:
            self._interruptions.run(attempt)
        except (HealthCheckFailed, httpx.HTTPError) as error:
            reason = "no answer in time" if isinstance(error, httpx.TimeoutException) else error
            raise ServerStartError(f"warming up {what} failed: {reason}", NEXT_STEP) from None

    def _send_canary(self, canary: Canary) -> ProbeResult:
        self._on_step("checking the health of the ensemble")
        probe = self._interruptions.run(lambda: canary.probe(WARM_UP_TIMEOUT_S))
        if probe.status is not ProbeStatus.HEALTHY:
            raise ServerStartError(f"the canary failed: {probe.result.error}", NEXT_STEP)
        return probe
