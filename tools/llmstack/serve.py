"""`llmstack serve`: the whole stack in the foreground, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from llm_policy.headers import ENGINE_HASH, QUANTISATION
from llm_policy.release import Release, ReleaseError
from llmstack import serve_options as options
from llmstack.admin_key import random_admin_key, read_admin_key
from llmstack.paths import DEFAULT_RELEASE_DIR, DEFAULT_STATE_DIR, MODEL_REPOSITORY
from llmstack.ports import Ports
from llmstack.server_error import ServerStartError
from llmstack.server_log import LogRelay, is_harmless
from llmstack.server_process import DEFAULT_START_TIMEOUT_S, TritonServer
from llmstack.stop_signals import StopRequested, StopSignals

_POLL_S = 0.5
FAILED = 1


def open_release(directory: Path) -> Release:
    """The release at `directory`, its files proven to be those of its manifest.

    Raises:
        ServerStartError: lists every difference.
    """
    try:
        return Release.open(directory).verify_files()
    except ReleaseError as error:
        raise ServerStartError(str(error), f"llmstack manifest verify {directory} shows what belongs there") from None


def pick_engine(release: Release) -> str:
    """`tensorrtllm` for a release that holds a TensorRT engine, else `embedded`."""
    is_tensorrt = release.engine_path.is_file() or any(release.engine_path.glob("*.engine"))
    return "tensorrtllm" if is_tensorrt else "embedded"


def serve(
    release_dir: options.ReleaseDir = DEFAULT_RELEASE_DIR,
    engine: options.EngineChoice = None,
    state_dir: options.StateDir = DEFAULT_STATE_DIR,
    model_repository: options.ModelRepository = MODEL_REPOSITORY,
    host: options.Host = "127.0.0.1",
    http_port: options.HttpPort = 8000,
    grpc_port: options.GrpcPort = 8001,
    metrics_port: options.MetricsPort = 8002,
    admin_key_file: options.AdminKeyFile = None,
    exit_timeout_s: options.ExitTimeoutS = 30,
    start_timeout_s: options.StartTimeoutS = DEFAULT_START_TIMEOUT_S,
    log_verbose: options.LogVerbose = 0,
    verbose: options.Verbose = False,
) -> None:
    """Serve the ensemble over HTTP and gRPC until SIGTERM or Ctrl-C.

    Checks the release first: every file must be the one that its manifest names. Then starts tritonserver, from
    NVIDIA's image or from the PyPI package, and prints the URLs once the models are loaded.

    Example: llmstack serve --engine echo --http-port 9000 --verbose
    """
    console = Console(soft_wrap=True, highlight=False)
    try:
        release = open_release(release_dir)
        server = TritonServer(
            release_dir=release.directory,
            engine=engine.value if engine else pick_engine(release),
            model_repository=model_repository,
            state_dir=state_dir,
            host=host,
            ports=Ports(http_port, grpc_port, metrics_port),
            admin_key=read_admin_key(admin_key_file) if admin_key_file else random_admin_key(),
            exit_timeout_s=exit_timeout_s,
            log_verbose=log_verbose,
        )
        with StopSignals() as stop:
            _run(server, release, stop, start_timeout_s, console, verbose)
    except ServerStartError as error:
        give_up(error)


def give_up(error: ServerStartError) -> None:
    """Say on standard error why the server can't run and what to do, and exit with 1."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"error: {error}", style="red", markup=False)
    console.print(f"next:  {error.next_step}", markup=False)
    raise typer.Exit(FAILED)


def start_visibly(
    server: TritonServer,
    console: Console,
    timeout_s: float = DEFAULT_START_TIMEOUT_S,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Wait until a started `server` is ready, and show that something is going on; `check` may raise to give up.

    Raises:
        ServerStartError: the server ended or took too long.
    """
    began = time.monotonic()
    text = f"starting tritonserver with the {server.engine} engine"
    if not console.is_terminal:
        console.print(text)
    with console.status(text) as status:

        def on_poll() -> None:
            status.update(f"{text}, {time.monotonic() - began:.0f} s")
            check()

        server.wait_ready(timeout_s, on_poll)


def _run(
    server: TritonServer,
    release: Release,
    stop: StopSignals,
    start_timeout_s: float,
    console: Console,
    verbose: bool,
) -> None:
    with contextlib.ExitStack() as ending, contextlib.suppress(StopRequested):
        server.start()
        if verbose:
            ending.enter_context(LogRelay(server.log_path, lambda line: _show(console, line)))
        ending.callback(_stop, server, console)
        start_visibly(server, console, start_timeout_s, stop.check)
        _announce(server, release, console)
        _watch(server, stop)


def _show(console: Console, line: str) -> None:
    if not is_harmless(line):
        console.print(line, markup=False)


def _stop(server: TritonServer, console: Console) -> None:
    with console.status("stopping: requests under way are answered first"):
        server.stop()
    console.print("stopped")


def _watch(server: TritonServer, stop: StopSignals) -> None:
    while not stop.wait(_POLL_S):
        if not server.is_running:
            raise ServerStartError(
                "tritonserver ended by itself:\n" + "\n".join(server.failure_reasons()),
                f"read the whole log: {server.log_path}",
            )


def _announce(server: TritonServer, release: Release, console: Console) -> None:
    engine = release.manifest.engine
    rows = {
        "HTTP": f"{server.http_url}/v2/models/ensemble/infer",
        "gRPC": server.grpc_url,
        "Metrics": server.metrics_url,
        ENGINE_HASH: engine.hash,
        QUANTISATION: engine.quantisation,
        "Engine": f"{server.engine}, {engine.model}",
        "Log": str(server.log_path),
    }
    width = max(map(len, rows)) + 2
    for name, value in rows.items():  # no table: a narrow one would cut the hash that clients need
        console.print(f"[bold]{name:<{width}}[/]{escape(value)}")
    console.print("[green]ready[/green], Ctrl-C stops the server")
