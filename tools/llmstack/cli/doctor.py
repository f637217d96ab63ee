"""`llmstack doctor`: checks everything that `llmstack serve` needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmstack.cli import serve_options as options
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.diagnostics.check_result import CheckResult, CheckStatus, has_failure
from llmstack.paths import DEFAULT_RELEASE_DIR, DEFAULT_STATE_DIR, MODEL_REPOSITORY

_STYLES = {CheckStatus.OK: "green", CheckStatus.WARN: "yellow", CheckStatus.FAIL: "red", CheckStatus.SKIPPED: "dim"}
_SIGNS = {CheckStatus.OK: "✔", CheckStatus.WARN: "!", CheckStatus.FAIL: "✘", CheckStatus.SKIPPED: "–"}


def doctor(
    release_dir: options.ReleaseDir = DEFAULT_RELEASE_DIR,
    engine: options.EngineChoice = None,
    engine_option: options.EngineOption = None,
    state_dir: options.StateDir = DEFAULT_STATE_DIR,
    model_repository: options.ModelRepository = MODEL_REPOSITORY,
    host: options.Host = "127.0.0.1",
    http_port: options.HttpPort = 8000,
    grpc_port: options.GrpcPort = 8001,
    metrics_port: options.MetricsPort = 8002,
    ready_port: options.ReadyPort = 8003,
    require_api_keys: options.RequireApiKeys = None,
    image: Annotated[
        str | None,
        typer.Option(help="The image or tag to check, such as 24.05-trtllm-python-py3.", show_default="this one"),
    ] = None,
    reach: Annotated[
        bool, typer.Option("--reach", help="Connect to the webhooks' addresses; nothing is sent.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check engine, image, GPU, memory, mounts, release, state directory, webhooks, ports and API keys, and print what
    to fix.

    Takes the options and variables of `llmstack serve` and changes nothing. Exits with 1 when a failure keeps the stack
    from serving. Ports and a state directory that this service already uses count as OK. `llmstack serve --examine`
    runs the same checks on the options of serve.

    Example: llmstack doctor --engine tensorrtllm --image 25.10-trtllm-python-py3
    """
    from llmstack.diagnostics.checks import run_checks
    from llmstack.diagnostics.deployment import Deployment
    from llmstack.diagnostics.image_tag import parse_tag
    from llmstack.server.api_keys import requires_keys
    from llmstack.server.release import guess_engine

    tag = parse_tag(image) if image else None
    if image and tag is None:
        fail(f"{image!r} is not a tag of NVIDIA's form", "give one such as 25.10-trtllm-python-py3")
    ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port, "ready": ready_port}
    chosen = engine.value if engine else guess_engine(release_dir)
    results = run_checks(
        Deployment(
            *(release_dir, chosen, engine_option or (), state_dir, model_repository),
            *(host, ports, tag, reach, os.environ),
            requires_api_keys=requires_keys(require_api_keys, host),
        )
    )
    if as_json:
        print_json([result.to_json() for result in results])
    else:
        print_check_results(results)
    if has_failure(results):
        raise typer.Exit(EXIT_FAILED)


def print_check_results(results: Sequence[CheckResult]) -> None:
    """Print the results as a table on standard output."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("", "check", "found", "next"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("", "check"))
    for result in results:
        sign = f"[{_STYLES[result.status]}]{_SIGNS[result.status]}"
        table.add_row(sign, result.check, escape(result.text), escape(result.next_step))
    Console(highlight=False).print(table)
