"""`llmstack serve`: the whole stack in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from llmstack.cli import serve_options as options
from llmstack.cli.doctor import print_check_results
from llmstack.cli.server_start import exit_with_error
from llmstack.cli.terminal import EXIT_FAILED
from llmstack.diagnostics.check_result import CheckResult, CheckStatus, has_failure
from llmstack.paths import DEFAULT_RELEASE_DIR, DEFAULT_STATE_DIR, MODEL_REPOSITORY
from llmstack.server.engines import DEFAULT_START_TIMEOUT_S
from llmstack.server.error import ServerStartError
from llmstack.server.log_line import JsonLines
from llmstack.server.parent_death import forbid_core_files

if TYPE_CHECKING:
    from llmstack.diagnostics.deployment import Deployment
    from llmstack.release.serving import ServedRelease
    from llmstack.server.log import LogRelay
    from llmstack.server.process import TritonServer
    from llmstack.supervision.service import Service


def serve(
    release_dir: options.ReleaseDir = DEFAULT_RELEASE_DIR,
    engine: options.EngineChoice = None,
    engine_option: options.EngineOption = None,
    tensorrtllm_mode: options.TensorRTLLMModeChoice = options.UNARY_MODE,
    state_dir: options.StateDir = DEFAULT_STATE_DIR,
    model_repository: options.ModelRepository = MODEL_REPOSITORY,
    host: options.Host = "127.0.0.1",
    http_port: options.HttpPort = 8000,
    grpc_port: options.GrpcPort = 8001,
    metrics_port: options.MetricsPort = 8002,
    ready_port: options.ReadyPort = 8003,
    openai_port: options.OpenAIPort = 8005,
    no_openai: options.NoOpenAI = False,
    admin_key_file: options.AdminKeyFile = None,
    require_api_keys: options.RequireApiKeys = None,
    canary_interval_s: options.CanaryIntervalS = 5.0,
    drain_delay_s: options.DrainDelayS = 0.0,
    exit_timeout_s: options.ExitTimeoutS = 30,
    start_timeout_s: options.StartTimeoutS = DEFAULT_START_TIMEOUT_S,
    trace_url: options.TraceUrl = None,
    trace_rate: options.TraceRate = 1,
    max_log_mib: options.MaxLogMib = 64,
    max_ledger_mib: options.MaxLedgerMib = 10_240,
    metric_tenant: options.MetricTenant = None,
    log_verbose: options.LogVerbose = 0,
    examine_first: options.ExamineFirst = False,
    log_format: options.LogFormat = options.LogFormatName.TEXT,
    verbose: options.Verbose = False,
) -> None:
    """Serve the ensemble over HTTP, gRPC and the OpenAI API until SIGTERM or Ctrl-C.

    First checks every file of the release against its manifest. Then starts tritonserver, from NVIDIA's image or from
    the PyPI package, warms up every task and schema, checks the health of the ensemble by a request, and reports ready
    on /readyz. A server that dies or stops answering is restarted. The first signal drains: requests in flight are
    answered, new ones rejected. A second signal ends everything immediately.

    Example: llmstack serve --engine echo --http-port 9000 --verbose
    """
    from llmstack.diagnostics.api_key_check import check_keys
    from llmstack.diagnostics.deployment import Deployment
    from llmstack.events.endpoint import read_endpoints
    from llmstack.release.serving import ServedRelease
    from llmstack.server.admin_key import random_admin_key, read_admin_key
    from llmstack.server.api_keys import requires_keys
    from llmstack.server.command import check_mode, parse_tracing
    from llmstack.server.release import guess_engine, parse_engine_options, pick_engine
    from llmstack.supervision.metric_tenants import parse_metric_tenants
    from llmstack.supervision.settings import ServiceSettings
    from llmstack.supervision.state_directory import StateDirectory
    from llmstack.supervision.stop_signals import StopSignals

    log = JsonLines(sys.stdout, with_canaries=verbose) if log_format is options.LogFormatName.JSON else None
    console = Console(file=cast("TextIO | None", log), soft_wrap=True, highlight=False)
    forbid_core_files()
    requires_api_keys = requires_keys(require_api_keys, host)
    if examine_first:
        ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port, "ready": ready_port}
        ports |= {} if no_openai else {"openai": openai_port}
        name = engine.value if engine else guess_engine(release_dir)
        paths = (state_dir, model_repository)
        _examine(
            Deployment(
                *(release_dir, name, engine_option or (), *paths, host, ports, None, False, os.environ),
                requires_api_keys=requires_api_keys,
            )
        )
    _print_key_warning(console, check_keys(requires_api_keys, host, state_dir))
    try:
        settings = ServiceSettings(
            pick_engine=lambda release: engine.value if engine else pick_engine(release),
            engine_options=parse_engine_options(engine_option or ()),
            tensorrt_llm_mode=check_mode(engine.value if engine else None, tensorrtllm_mode.value),
            model_repository=model_repository,
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            ready_port=ready_port,
            openai_port=None if no_openai else openai_port,
            admin_key=read_admin_key(admin_key_file) if admin_key_file else random_admin_key(),
            requires_api_keys=requires_api_keys,
            canary_interval_s=canary_interval_s,
            start_timeout_s=start_timeout_s,
            exit_timeout_s=exit_timeout_s,
            drain_delay_s=drain_delay_s,
            tracing=parse_tracing(trace_url, trace_rate) if trace_url is not None else None,
            log_verbose=log_verbose,
            max_log_bytes=max_log_mib << 20,
            max_ledger_bytes=max_ledger_mib << 20,
            endpoints=read_endpoints(os.environ),
            metric_tenants=parse_metric_tenants(metric_tenant or ()),
        )
        with StateDirectory(state_dir) as state, StopSignals() as stop:
            _serve(ServedRelease(release_dir, state, stop, settings), console, _relay_to(console, log, verbose))
    except ServerStartError as error:
        exit_with_error(error)
    except KeyboardInterrupt:
        console.print("stopped immediately")
        raise typer.Exit(EXIT_FAILED) from None


def _examine(deployment: Deployment) -> None:
    """Print the results of `llmstack doctor`, and exit with 1 on a failure."""
    from llmstack.diagnostics.checks import run_checks

    results = run_checks(deployment)
    print_check_results(results)
    if has_failure(results):
        raise typer.Exit(EXIT_FAILED)


def _print_key_warning(console: Console, result: CheckResult) -> None:
    if result.status is not CheckStatus.OK:
        console.print(f"WARNING: {result.check}: {result.text}", style="bold red", markup=False)
        console.print(f"next:    {result.next_step}", markup=False)


def _relay_to(console: Console, log: JsonLines | None, verbose: bool) -> Callable[[str], None] | None:
    """Where a line of the server's log goes, besides its file: None is nowhere."""
    if log is not None:
        return log.relay
    return (lambda line: console.print(line, markup=False)) if verbose else None


def _serve(served: ServedRelease, console: Console, relay: Callable[[str], None] | None) -> None:
    from llmstack.supervision.stop_signals import StopRequested

    with contextlib.ExitStack() as ending:
        ending.callback(console.print, "stopped")
        ending.enter_context(served)
        with contextlib.suppress(StopRequested):
            if relay is not None:
                ending.enter_context(_log_relay(served.service.server, relay))
            if _start(served, console):
                _announce(served.service, console)
            served.run(lambda line: console.print(line, markup=False))
        with console.status("draining: requests in flight are answered first"):
            served.service.drain()


def _start(served: ServedRelease, console: Console) -> bool:
    began = time.monotonic()
    with console.status("starting") as status:
        return served.start(lambda text: _show_step(status, console, f"{text} ({time.monotonic() - began:.0f} s)"))


def _show_step(status: Status, console: Console, text: str) -> None:
    status.update(text)
    if not console.is_terminal:
        console.print(text, markup=False)


def _log_relay(server: TritonServer, relay: Callable[[str], None]) -> LogRelay:
    """Passes on the lines that the server logs from now on, without the harmless ones."""
    from llmstack.server.log import LogRelay, is_harmless

    def show(line: str) -> None:
        if not is_harmless(line):
            relay(line)

    server.log_path.touch()
    return LogRelay(server.log_path, show, server.log_path.stat().st_size)


def _announce(service: Service, console: Console) -> None:
    from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
    from llmstack.server.command import ENSEMBLE

    server, engine = service.server, service.release.manifest.engine
    call = "infer" if server.entry_model == ENSEMBLE else "generate_stream"
    rows = {
        "HTTP": f"{server.http_url}/v2/models/{server.entry_model}/{call}",
        "gRPC": server.grpc_url,
        **({"OpenAI": service.openai_url} if service.openai_url else {}),
        "Metrics": service.metrics_url,
        "Readiness": service.ready_url,
        ENGINE_HASH: engine.hash,
        QUANTISATION: engine.quantisation,
        "API keys": "required" if server.requires_api_keys else "not required",
        "Engine": f"{server.engine}, {engine.model}",
        "Log": str(server.log_path),
    }
    width = max(map(len, rows)) + 2
    for name, value in rows.items():  # no table: a narrow one would truncate the hash that clients need
        console.print(f"[bold]{name:<{width}}[/]{escape(value)}")
    console.print("[green]ready[/green], Ctrl-C stops the server")
