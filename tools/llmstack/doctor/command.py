"""`llmstack doctor`: what would go wrong, before it does."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from llm_policy.release import Release, ReleaseError
from llmstack import serve_options as options
from llmstack.doctor.checks import Subject, examine
from llmstack.doctor.finding import Finding, Verdict
from llmstack.doctor.image_tag import parse_tag
from llmstack.paths import DEFAULT_RELEASE_DIR, DEFAULT_STATE_DIR
from llmstack.serve import pick_engine
from llmstack.terminal import DIFFERENT, fail, print_json

_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red", Verdict.SKIPPED: "dim"}
_SIGNS = {Verdict.OK: "✔", Verdict.WARN: "!", Verdict.FAIL: "✘", Verdict.SKIPPED: "–"}


def doctor(
    release_dir: options.ReleaseDir = DEFAULT_RELEASE_DIR,
    engine: options.EngineChoice = None,
    state_dir: options.StateDir = DEFAULT_STATE_DIR,
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
    """Examine image, GPU, memory, release, state directory, webhooks and ports, and say what to do.

    Takes the options and variables of `llmstack serve`. Exits with 1 when something would keep it from serving.

    Example: llmstack doctor --engine tensorrtllm --image 25.10-trtllm-python-py3
    """
    tag = parse_tag(image) if image else None
    if image and tag is None:
        fail(f"{image!r} is no tag of NVIDIA's form", "such as 25.10-trtllm-python-py3")
    ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port, "ready": ready_port}
    chosen = engine.value if engine else _engine_of(release_dir)
    findings = examine(Subject(release_dir, chosen, state_dir, host, ports, tag, reach, os.environ))
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        _print(findings)
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise typer.Exit(DIFFERENT)


def _engine_of(release_dir: options.ReleaseDir) -> str:
    try:
        return pick_engine(Release.open(release_dir))
    except ReleaseError:
        return "embedded"  # what is wrong with the release is a finding of its own


def _print(findings: list[Finding]) -> None:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("", "check", "found", "next"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("", "check"))
    for finding in findings:
        style = _STYLES[finding.verdict]
        table.add_row(f"[{style}]{_SIGNS[finding.verdict]}", finding.check, finding.text, finding.next_step)
    Console(highlight=False).print(table)
