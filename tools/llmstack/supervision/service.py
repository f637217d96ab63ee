"""The parent process put together: supervisor, housekeeping, deliveries and the two ports of its own."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import TypeVar

from llm_policy.metrics.metrics import exposition_parts
from llm_policy.release.release import Release
from llmstack.events.delivery_service import DeliveryService
from llmstack.server.ports import Ports, listen
from llmstack.server.process import TritonServer, reachable
from llmstack.supervision.drain import serve_on, wait_until_idle
from llmstack.supervision.housekeeping import Housekeeping
from llmstack.supervision.ledger_maintenance import LedgerMaintenance
from llmstack.supervision.metrics_page import MetricsPage
from llmstack.supervision.page_server import PageServer
from llmstack.supervision.readiness import SERVER, Readiness
from llmstack.supervision.settings import ServiceSettings
from llmstack.supervision.state_directory import StateDirectory
from llmstack.supervision.stop_signals import StopSignals
from llmstack.supervision.supervisor import Supervisor

T = TypeVar("T")
CHECKING_FILES = "checking the release's files"
# `drain` waits for the requests in flight; Triton then only unloads its models.
_TRITON_EXIT_S = 5


class Service:
    """A supervised server with its ledger, deliveries and ports of its own.

    `with` opens the ports and ends everything. In between `start`, `watch` and `drain` are called, all on one thread,
    which owns the server.

    Raises:
        ServerStartError: a port is taken, or the ledger is one that this version can't use.
    """

    def __init__(self, release: Release, state: StateDirectory, stop: StopSignals, settings: ServiceSettings) -> None:
        self.server = _build_server(release, state, settings)
        self.release = release
        self._state, self._stop, self._settings = state, stop, settings
        self._ledger = LedgerMaintenance(state.path, release.manifest)
        self._deliveries = DeliveryService(state.path, settings.endpoints)
        self._readiness = Readiness(release, self.server.engine)
        self._ending = contextlib.ExitStack()
        self._report: Callable[[str], None] = lambda line: None

    def __enter__(self) -> Service:
        with contextlib.ExitStack() as opened:
            metrics = MetricsPage(
                lambda: self.server.metrics_url,
                exposition_parts(self._state.path),
                lambda: self._readiness.is_ready,
                lambda: self._readiness.backlogs,
            )
            ready_pages = {"/readyz": self._readiness.readyz, "/livez": self._readiness.livez}
            self._ready = PageServer(listen(self.server.host, "ready", self._settings.ready_port), ready_pages, "ready")
            opened.enter_context(self._ready)
            self._metrics = PageServer(
                listen(self.server.host, "metrics", self._settings.metrics_port), {"/metrics": metrics.make}, "metrics"
            )
            opened.enter_context(self._metrics)
            self._ending = opened.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        """Whatever still runs ends at once; after `drain` nothing does."""
        with self._ending:
            self.server.kill()
            self._mark(self._state.end_draining)

    @property
    def ready_url(self) -> str:
        """Where the service explains whether it is ready."""
        return f"http://{reachable(self.server.host)}:{self._ready.port}/readyz"

    @property
    def metrics_url(self) -> str:
        """The URL that Prometheus scrapes."""
        return f"http://{reachable(self.server.host)}:{self._metrics.port}/metrics"

    def start(self, on_step: Callable[[str], None], should_yield: Callable[[], bool] = lambda: False) -> bool:
        """Start the server, warm it up and prove it; `on_step` is told what it is at.

        False when `should_yield` said that somebody wants the server meanwhile: then `watch` goes on.

        Raises:
            ReleaseError: the release's files are not those of its manifest.
            ServerStartError: it doesn't start, or doesn't answer as it should.
            StopRequested: somebody asked to stop meanwhile.
        """
        self.prepare(on_step, should_yield)
        self._supervisor.start(self._prove_files)
        return self._supervisor.is_healthy

    def prepare(self, on_step: Callable[[str], None], should_yield: Callable[[], bool]) -> None:
        """All but the server: `bring_up` may follow. `on_step` is told what the server is at."""
        self._supervisor = Supervisor(
            self.server,
            self.release,
            self._readiness,
            self._ledger,
            self._stop,
            self._settings.start_timeout_s,
            self._settings.canary_interval_s,
            on_step,
            should_yield,
        )
        keeping = Housekeeping(
            self._supervisor, self._state, self._ledger, self._deliveries, self._settings.max_log_bytes
        )
        self._deliveries.start()
        self._ending.callback(self._deliveries.stop)
        self._ending.enter_context(keeping)

    def watch(self, report: Callable[[str], None], on_preempt: Callable[[], None]) -> None:
        """Look after the server until a stop is asked for; `report` gets a line for each outage and recovery.

        Whenever the `should_yield` of the start says so, `on_preempt` has the server to itself.
        """
        self._report = report
        self._supervisor.watch(report, on_preempt)

    def drain(self) -> None:
        """Refuse what is new, answer what is under way, stop the server."""
        self.mark_unready("draining: requests under way are answered, new ones refused")
        self._supervisor.stop_canaries()
        self.drain_requests()
        self._supervisor.close_client()
        self.server.stop()

    def mark_unready(self, why: str) -> None:
        """Say on /readyz that requests had better go elsewhere."""
        self._readiness.set_problem(SERVER, why)

    def drain_requests(self) -> None:
        """Refuse what is new and answer what is under way, within the exit time-out; in an outage nothing is.

        Before that all is served for the drain delay: balancers have to see /readyz first.
        """
        if self.server.is_running and self._supervisor.is_healthy:
            serve_on(self._supervisor, self._settings.drain_delay_s)
            self._mark(self._state.begin_draining)
            wait_until_idle(self._supervisor, self._settings.exit_timeout_s)

    def resume(self) -> None:
        """Take requests again, after `mark_unready` and `drain_requests`."""
        self._mark(self._state.end_draining)
        if self._supervisor.is_healthy:
            self._readiness.set_problem(SERVER, "")

    def run_interruptibly(self, work: Callable[[], T]) -> T:
        """Do long work that needs no server; see `Supervisor.aside`."""
        return self._supervisor.run_interruptibly(work)

    def stop_server(self) -> None:
        """Stop the server; one that comes next takes requests again."""
        self._supervisor.stop_server()
        self._mark(self._state.end_draining)

    def set_release(self, release: Release) -> None:
        """From now on serve this release."""
        self.release = self._supervisor.release = release
        self.server.release_dir, self.server.release_fingerprint = release.directory, release.proof
        self.server.engine = self._settings.pick_engine(release)
        self._ledger.set_release(release.manifest)
        self._readiness.set_release(release, self.server.engine)

    def bring_up(self, on_phase: Callable[[str], None], start_timeout_s: float | None) -> None:
        """Start the server and prove it; see `Supervisor.bring_up`."""
        self._supervisor.bring_up(on_phase, start_timeout_s)

    def recover(self, outage: str) -> bool:
        """Go on trying to bring the server up; see `Supervisor.recover`."""
        return self._supervisor.recover(outage)

    def _prove_files(self) -> None:
        """Check the release's files, once for all starts of the server."""
        self.mark_unready(CHECKING_FILES)
        self._supervisor.on_step(CHECKING_FILES)
        self.release = self._supervisor.release = self.run_interruptibly(self.release.verify_files)
        self.server.release_fingerprint = self.release.proof

    def _mark(self, change: Callable[[], None]) -> None:
        """Set or take away the mark of a drain.

        Where that fails nothing can be written, so requests are refused all the same, as unrecorded ones; and the next
        start takes a mark away that was left behind.
        """
        try:
            change()
        except OSError as error:
            self._report(f"the mark of a drain could not be changed: {error}")


def _build_server(release: Release, state: StateDirectory, settings: ServiceSettings) -> TritonServer:
    return TritonServer(
        release_dir=release.directory,
        engine=settings.pick_engine(release),
        model_repository=settings.model_repository,
        state_dir=state.path,
        host=settings.host,
        ports=Ports(settings.http_port, settings.grpc_port).choose(settings.host),
        metrics_host="127.0.0.1",
        admin_key=settings.admin_key,
        exit_timeout_s=_TRITON_EXIT_S,
        log_verbose=settings.log_verbose,
        tracing=settings.tracing,
        keeps_log=True,
        death_signal=signal.SIGKILL,
        inherited_fds=(state.lock_fd,),
    )
