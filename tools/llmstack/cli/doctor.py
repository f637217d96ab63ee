"""`llmstack doctor`: what would go wrong, before it does."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from llmstack.cli import serve_options as options
from llmstack.cli.doctor_report import keeps_from_serving, print_findings
from llmstack.cli.terminal import DIFFERENT, fail, print_json
from llmstack.diagnostics.checks import Subject, examine
from llmstack.diagnostics.image_tag import parse_tag
from llmstack.paths import DEFAULT_RELEASE_DIR, DEFAULT_STATE_DIR, MODEL_REPOSITORY
from llmstack.server.release import likely_engine


def doctor(
    release_dir: options.ReleaseDir = DEFAULT_RELEASE_DIR,
    engine: options.EngineChoice = None,
    state_dir: options.StateDir = DEFAULT_STATE_DIR,
    model_repository: options.ModelRepository = MODEL_REPOSITORY,
    host: options.Host = "127.0.0.1",
    http_port: options.HttpPort = 8000,
    grpc_port: options.GrpcPort = 8001,
    metrics_port: options.MetricsPort = 8002,
    ready_port: options.ReadyPort = 8003,
    image: Annotated[
        str | None,
        typer.Option(help="An image or tag to judge, such as 24.05-trtllm-python-py3.", show_default="this one"),
    ] = None,
    reach: Annotated[bool, typer.Option("--reach", help="Connect to the webhooks' addresses; sends nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Examine image, engine, GPU, memory, mounts, release, state directory, webhooks and ports, and say what to do.

    Takes the options and variables of `llmstack serve`, and changes nothing. Exits with 1 when something would keep it
    from serving. Beside a running service of ours it says so. `llmstack serve --examine` judges serve's own options.

    Example: llmstack doctor --engine tensorrtllm --image 25.10-trtllm-python-py3
    """
    tag = parse_tag(image) if image else None
    if image and tag is None:
        fail(f"{image!r} is no tag of NVIDIA's form", "such as 25.10-trtllm-python-py3")
    ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port, "ready": ready_port}
    chosen = engine.value if engine else likely_engine(release_dir)
    findings = examine(Subject(release_dir, chosen, state_dir, model_repository, host, ports, tag, reach, os.environ))
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        print_findings(findings)
    if keeps_from_serving(findings):
        raise typer.Exit(DIFFERENT)
