"""`llmstack serve`: the whole stack in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from llm_policy.ledger.database import FILE_NAME as LEDGER_NAME
from llm_policy.ledger.database import NewerLedger
from llm_policy.release.release import Release
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
from llmstack.cli import serve_options as options
from llmstack.cli.doctor import print_check_results
from llmstack.cli.server_start import exit_with_error
from llmstack.diagnostics.check_result import has_failure
from llmstack.diagnostics.checks import run_checks
from llmstack.diagnostics.deployment import Deployment
from llmstack.events.endpoint import read_endpoints
from llmstack.events.json_log import json_log
from llmstack.paths import DEFAULT_RELEASE_DIR, DEFAULT_STATE_DIR, MODEL_REPOSITORY
from llmstack.release.journal import Change, ReleaseJournal
from llmstack.release.switch import Switch
from llmstack.server.admin_key import random_admin_key, read_admin_key
from llmstack.server.command import Tracing
from llmstack.server.error import ServerStartError
from llmstack.server.log import LogRelay, is_harmless
from llmstack.server.process import DEFAULT_START_TIMEOUT_S, TritonServer
from llmstack.server.release import guess_engine, pick_engine, release_errors_as_start_errors
from llmstack.supervision.service import Service
from llmstack.supervision.settings import ServiceSettings
from llmstack.supervision.state_directory import StateDirectory
from llmstack.supervision.stop_signals import StopRequested, StopSignals

FAILED = 1


def serve(
    release_dir: options.ReleaseDir = DEFAULT_RELEASE_DIR,
    engine: options.EngineChoice = None,
    state_dir: options.StateDir = DEFAULT_STATE_DIR,
    model_repository: options.ModelRepository = MODEL_REPOSITORY,
    host: options.Host = "127.0.0.1",
    http_port: options.HttpPort = 8000,
    grpc_port: options.GrpcPort = 8001,
    metrics_port: options.MetricsPort = 8002,
    ready_port: options.ReadyPort = 8003,
    admin_key_file: options.AdminKeyFile = None,
    canary_interval_s: options.CanaryIntervalS = 5.0,
    drain_delay_s: options.DrainDelayS = 0.0,
    exit_timeout_s: options.ExitTimeoutS = 30,
    start_timeout_s: options.StartTimeoutS = DEFAULT_START_TIMEOUT_S,
    trace_url: options.TraceUrl = None,
    trace_rate: options.TraceRate = 1,
    max_log_mib: options.MaxLogMib = 64,
    log_verbose: options.LogVerbose = 0,
    examine_first: options.ExamineFirst = False,
    verbose: options.Verbose = False,
) -> None:
    """Serve the ensemble over HTTP and gRPC until SIGTERM or Ctrl-C.

    Checks the release first: every file must be the one that its manifest names. Then starts tritonserver, from
    NVIDIA's image or from the PyPI package, warms up every task and schema, proves the ensemble by a request, and says
    so on /readyz. A server that dies or stops answering is started again. The first signal drains: requests under way
    are answered, new ones refused. A second one ends everything at once.

    Example: llmstack serve --engine echo --http-port 9000 --verbose
    """
    console = Console(soft_wrap=True, highlight=False)
    if examine_first:
        ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port, "ready": ready_port}
        name = engine.value if engine else guess_engine(release_dir)
        _examine(Deployment(release_dir, name, state_dir, model_repository, host, ports, None, False, os.environ))
    try:
        endpoints = read_endpoints(os.environ)

        def engine_of(release: Release) -> str:
            return engine.value if engine else pick_engine(release)

        with StateDirectory(state_dir) as state, StopSignals() as stop:
            switch = Switch(ReleaseJournal(state.path), release_dir, json_log())
            unfinished = settle(switch)
            release = _open_settled(release_dir, switch, unfinished)
            settings = ServiceSettings(
                pick_engine=engine_of,
                model_repository=model_repository,
                host=host,
                http_port=http_port,
                grpc_port=grpc_port,
                metrics_port=metrics_port,
                ready_port=ready_port,
                admin_key=read_admin_key(admin_key_file) if admin_key_file else random_admin_key(),
                canary_interval_s=canary_interval_s,
                start_timeout_s=start_timeout_s,
                exit_timeout_s=exit_timeout_s,
                drain_delay_s=drain_delay_s,
                tracing=_tracing(trace_url, trace_rate),
                log_verbose=log_verbose,
                max_log_bytes=max_log_mib << 20,
                endpoints=endpoints,
            )
            service = Service(release, state, stop, settings)
            _run(service, switch, unfinished, console, verbose)
    except ServerStartError as error:
        exit_with_error(error)
    except KeyboardInterrupt:
        console.print("stopped at once")
        raise typer.Exit(FAILED) from None


def _examine(deployment: Deployment) -> None:
    """Print what `llmstack doctor` finds, and end here with 1 when something would keep the stack from serving."""
    results = run_checks(deployment)
    print_check_results(results)
    if has_failure(results):
        raise typer.Exit(FAILED)


def settle(switch: Switch) -> Change | None:
    """What an interrupted promotion or rollback left open, for `Switch.complete_interrupted` once the service is proven.

    Raises:
        ServerStartError: it can't be settled.
    """
    try:
        return switch.resolve_interrupted()
    except NewerLedger as error:
        raise ServerStartError(str(error), error.next_step) from None
    except (sqlite3.Error, OSError) as error:
        raise ServerStartError(
            f"an interrupted change of the release in service can't be settled: {error}",
            f"make the state directory and {LEDGER_NAME} in it readable and writable",
        ) from None


def _open_settled(release_dir: Path, switch: Switch, unfinished: Change | None) -> Release:
    """The release to serve; what is unfinished ends when it can't be opened, so that the next change can go on."""
    try:
        with release_errors_as_start_errors(release_dir):
            return Release.open(release_dir)
    except ServerStartError as error:
        if unfinished is not None:
            switch.fail_interrupted(unfinished, str(error))
        raise


def _run(service: Service, switch: Switch, unfinished: Change | None, console: Console, verbose: bool) -> None:
    with contextlib.ExitStack() as ending:
        ending.callback(console.print, "stopped")
        ending.enter_context(service)
        with contextlib.suppress(StopRequested):
            if verbose:
                ending.enter_context(_relay(service.server, console))
            if _start(service, switch, unfinished, console):
                _announce(service, console)
            service.watch(lambda line: console.print(line, markup=False), lambda: switch.perform_pending(service))
        with console.status("draining: requests under way are answered first"):
            service.drain()


def _start(service: Service, switch: Switch, unfinished: Change | None, console: Console) -> bool:
    """Whether the service is proven; when not, a change wants to be performed first."""
    began = time.monotonic()
    with console.status("starting") as status:

        def on_step(text: str) -> None:
            _show_step(status, console, f"{text} ({time.monotonic() - began:.0f} s)")

        try:
            with release_errors_as_start_errors(service.release.directory):
                is_healthy = service.start(on_step, switch.has_pending_change)
        except ServerStartError as error:
            if unfinished is not None:
                switch.fail_interrupted(unfinished, str(error))
            raise
        if unfinished is not None and is_healthy:
            switch.complete_interrupted(unfinished)
        return is_healthy


def _show_step(status: Status, console: Console, text: str) -> None:
    status.update(text)
    if not console.is_terminal:
        console.print(text, markup=False)


def _relay(server: TritonServer, console: Console) -> LogRelay:
    """Shows what the server logs from now on."""
    server.log_path.touch()
    return LogRelay(server.log_path, lambda line: _show(console, line), server.log_path.stat().st_size)


def _show(console: Console, line: str) -> None:
    if not is_harmless(line):
        console.print(line, markup=False)


def _tracing(url: str | None, rate: int) -> Tracing | None:
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServerStartError(
            f"--trace {url} is no http(s) URL",
            "give the collector's whole URL, such as http://localhost:4318/v1/traces",
        )
    return Tracing(url, rate)


def _announce(service: Service, console: Console) -> None:
    server, engine = service.server, service.release.manifest.engine
    rows = {
        "HTTP": f"{server.http_url}/v2/models/ensemble/infer",
        "gRPC": server.grpc_url,
        "Metrics": service.metrics_url,
        "Readiness": service.ready_url,
        ENGINE_HASH: engine.hash,
        QUANTISATION: engine.quantisation,
        "Engine": f"{server.engine}, {engine.model}",
        "Log": str(server.log_path),
    }
    width = max(map(len, rows)) + 2
    for name, value in rows.items():  # no table: a narrow one would cut the hash that clients need
        console.print(f"[bold]{name:<{width}}[/]{escape(value)}")
    console.print("[green]ready[/green], Ctrl-C stops the server")
