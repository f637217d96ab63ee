"""The service of the parent process: supervisor, housekeeping, webhook deliveries, readiness and metrics ports."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from typing import TypeVar

from llm_policy.ledger.database import FILE_NAME
from llm_policy.metrics.exposition import exposition_parts
from llm_policy.release.release import Release
from llmstack.events.delivery_service import DeliveryService
from llmstack.server.command import ENGINES
from llmstack.server.engine_process import EngineProcess
from llmstack.server.openai_process import OpenAIProcess
from llmstack.server.ports import Ports, listen
from llmstack.server.process import TritonServer, client_host
from llmstack.supervision.drain import wait_until_idle, wait_while_running
from llmstack.supervision.housekeeping import Housekeeping
from llmstack.supervision.ledger_maintenance import LedgerMaintenance
from llmstack.supervision.metrics_page import MetricsPage
from llmstack.supervision.openai_supervisor import OpenAISupervisor
from llmstack.supervision.page_server import PageServer
from llmstack.supervision.readiness import SERVER, Readiness
from llmstack.supervision.settings import ServiceSettings
from llmstack.supervision.state_directory import StateDirectory
from llmstack.supervision.stop_signals import StopSignals
from llmstack.supervision.supervisor import Supervisor
from llmstack.supervision.usage_page import UsagePage
from llmstack.tenants.engine_models import read_engine_models

T = TypeVar("T")
CHECKING_FILES = "checking the release's files"
# `drain` waits for the requests in flight; Triton then only unloads its models.
_TRITON_EXIT_S = 5


class Service:
    """A supervised server on `release`, with the ledger and the deliveries of the directory `state`.

    `with` opens the service's own ports and ends everything. `start`, `watch` and `drain` are called in between, all on
    the server thread: the one thread that owns the server.

    Raises:
        ServerStartError: a port is taken, or a newer version made the ledger.
    """

    def __init__(self, release: Release, state: StateDirectory, stop: StopSignals, settings: ServiceSettings) -> None:
        self.server = _build_server(release, state, settings)
        self.release = release
        self._state, self._stop, self._settings = state, stop, settings
        self._ledger = LedgerMaintenance(state.path, release.manifest)
        self._deliveries = DeliveryService(state.path, settings.endpoints)
        self._readiness = Readiness(release, self.server.engine, requires_api_keys=settings.requires_api_keys)
        self._openai: OpenAISupervisor | None = None
        self._ending = contextlib.ExitStack()
        self._report: Callable[[str], None] = lambda line: None
        self._kill: Callable[[], None] = self.server.kill

    def __enter__(self) -> Service:
        with contextlib.ExitStack() as opened:
            metrics = MetricsPage(
                lambda: self.server.metrics_url,
                exposition_parts(self._state.path, self._settings.metric_tenants),
                lambda: self._readiness.is_ready,
                lambda: self._readiness.backlogs,
            )
            ready_pages = {"/readyz": self._readiness.readyz, "/livez": self._readiness.livez}
            query_pages = {"/usage": self._build_usage_page().answer}
            ready_listener = listen(self.server.host, "ready", self._settings.ready_port)
            self._ready = PageServer(ready_listener, ready_pages, "ready", query_pages)
            opened.enter_context(self._ready)
            self._metrics = PageServer(
                listen(self.server.host, "metrics", self._settings.metrics_port), {"/metrics": metrics.make}, "metrics"
            )
            opened.enter_context(self._metrics)
            if self._settings.openai_port is not None:
                self._openai = self._open_openai(opened, self._settings.openai_port)
            self._ending = opened.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        """Kill what still runs, as after an error or without a `drain`."""
        with self._ending:
            self._kill()
            self._change_drain_mark(self._state.end_draining)

    @property
    def ready_url(self) -> str:
        """The URL of `/readyz`."""
        return f"{self._ready_base_url}/readyz"

    @property
    def _ready_base_url(self) -> str:
        return f"http://{client_host(self.server.host)}:{self._ready.port}"

    @property
    def metrics_url(self) -> str:
        """The URL that Prometheus scrapes."""
        return f"http://{client_host(self.server.host)}:{self._metrics.port}/metrics"

    @property
    def openai_url(self) -> str:
        """The base URL of the OpenAI API; empty if it is not served."""
        if self._openai is None:
            return ""
        return f"http://{client_host(self.server.host)}:{self._openai.process.port}/v1"

    def start(self, on_step: Callable[[str], None], should_yield: Callable[[], bool] = lambda: False) -> bool:
        """Start the server and wait until it is healthy; `on_step` receives a description of each step.

        Returns False when `should_yield` preempted the start, which `watch` then continues.

        Raises:
            ReleaseError: the release's files differ from its manifest.
            ServerStartError: the server doesn't start or fails a health check.
            StopRequested: a stop is requested.
        """
        self.prepare(on_step, should_yield)
        self._supervisor.start(self._verify_files)
        return self._supervisor.is_healthy

    def prepare(self, on_step: Callable[[str], None], should_yield: Callable[[], bool]) -> None:
        """Start everything but the server, for `bring_up`. `on_step` receives a description of each step."""
        self._supervisor = Supervisor(
            *(self.server, self.release, self._readiness, self._ledger, self._stop, self._settings),
            *(on_step, should_yield, self._openai),
        )
        self._kill = self._supervisor.close
        if self._openai is not None:
            self._openai.start()
        housekeeping = Housekeeping(
            self._supervisor,
            self._state,
            self._ledger,
            self._deliveries,
            self._settings.max_log_bytes,
            self._settings.max_ledger_bytes,
        )
        self._deliveries.start()
        self._ending.callback(self._deliveries.stop)
        self._ending.enter_context(housekeeping)

    def watch(self, report: Callable[[str], None], on_preempt: Callable[[], None]) -> None:
        """Watch the server until a stop is requested; see `Supervisor.watch`."""
        self._report = report
        self._supervisor.watch(report, on_preempt)

    def drain(self) -> None:
        """Reject new requests, answer those in flight, stop the OpenAI API, the server and the engine."""
        self.mark_unready("draining: requests in flight are answered, new ones rejected")
        self._supervisor.stop_canaries()
        self.drain_requests()
        if self._openai is not None:
            self._openai.stop()
        self._supervisor.close_client()
        self.server.stop()
        self._supervisor.engine.stop()

    def mark_unready(self, why: str) -> None:
        """Report the service unready on /readyz."""
        self._readiness.set_problem(SERVER, why)

    def drain_requests(self) -> None:
        """Reject new requests and answer those in flight, within the exit timeout. Does nothing during an outage.

        First all requests are still served for the drain delay: load balancers have to see /readyz.
        """
        if self.server.is_running and self._supervisor.is_healthy:
            wait_while_running(self._supervisor, self._settings.drain_delay_s)
            self._change_drain_mark(self._state.begin_draining)
            wait_until_idle(self._supervisor, self._settings.exit_timeout_s)

    def resume(self) -> None:
        """Accept requests again, after `mark_unready` and `drain_requests`."""
        self._change_drain_mark(self._state.end_draining)
        if self._supervisor.is_healthy:
            self._readiness.set_problem(SERVER, "")

    def run_interruptibly(self, work: Callable[[], T]) -> T:
        """Run long work that needs no server; see `Interruptions.run`."""
        return self._supervisor.run_interruptibly(work)

    def stop_server(self) -> None:
        """Stop the server and the engine; the next ones accept requests."""
        self._supervisor.stop_server()
        self._change_drain_mark(self._state.end_draining)

    def set_release(self, release: Release) -> None:
        """Serve this release from the next `bring_up` on."""
        self.release = self._supervisor.release = release
        self.server.release_dir, self.server.release_fingerprint = release.directory, release.fingerprint
        self.server.engine = self._settings.pick_engine(release)
        self.server.engine_process = _build_engine_process(self.server, self._state, self._settings)
        self._supervisor.engine.use(self.server.engine_process)
        if self._openai is not None:
            self._openai.use(release.directory)
        self._ledger.set_release(release.manifest)
        self._readiness.set_release(release, self.server.engine)

    def bring_up(self, on_phase: Callable[[str], None], start_timeout_s: float | None) -> None:
        """Start the server and wait until it is healthy; see `Supervisor.bring_up`."""
        self._supervisor.bring_up(on_phase, start_timeout_s)

    def recover(self, outage: str) -> bool:
        """Restart the server until it is healthy; see `Supervisor.recover`."""
        return self._supervisor.recover(outage)

    def _open_openai(self, opened: contextlib.ExitStack, port: int) -> OpenAISupervisor:
        listener = opened.enter_context(listen(self.server.host, "openai", port))
        process = OpenAIProcess(
            listener, self.server.grpc_url, self.release.directory, self._state.path, self._ready_base_url
        )
        supervisor = OpenAISupervisor(process, self._readiness)
        opened.callback(supervisor.close)
        return supervisor

    def _build_usage_page(self) -> UsagePage:
        return UsagePage(
            self._state.path / FILE_NAME, self._settings.admin_key, lambda: read_engine_models(self.release.directory)
        )

    def _verify_files(self) -> None:
        """Verify the release's files once, for all starts of the server."""
        self.mark_unready(CHECKING_FILES)
        self._supervisor.on_step(CHECKING_FILES)
        self.release = self._supervisor.release = self.run_interruptibly(self.release.verify_files)
        self.server.release_fingerprint = self.release.fingerprint

    def _change_drain_mark(self, change: Callable[[], None]) -> None:
        """Set or remove the drain mark.

        A failure has no consequence: when nothing can be written, preprocess rejects requests anyway because it can't
        record them, and the next start removes a mark that was left.
        """
        try:
            change()
        except OSError as error:
            self._report(f"the drain mark could not be changed: {error}")


def _build_server(release: Release, state: StateDirectory, settings: ServiceSettings) -> TritonServer:
    server = TritonServer(
        release_dir=release.directory,
        engine=settings.pick_engine(release),
        tensorrt_llm_mode=settings.tensorrt_llm_mode,
        model_repository=settings.model_repository,
        state_dir=state.path,
        host=settings.host,
        ports=Ports(settings.http_port, settings.grpc_port).choose(settings.host),
        metrics_host="127.0.0.1",
        admin_key=settings.admin_key,
        requires_api_keys=settings.requires_api_keys,
        exit_timeout_s=_TRITON_EXIT_S,
        log_verbose=settings.log_verbose,
        tracing=settings.tracing,
        appends_log=True,
        death_signal=signal.SIGKILL,
        inherited_fds=(state.lock_fd,),
    )
    server.engine_process = _build_engine_process(server, state, settings)
    return server


def _build_engine_process(
    server: TritonServer, state: StateDirectory, settings: ServiceSettings
) -> EngineProcess | None:
    """The process of the server's engine; None for one inside tritonserver."""
    if not ENGINES[server.engine].has_process:
        return None
    return EngineProcess(server.engine, server.release_dir, state.path, settings.engine_options)
