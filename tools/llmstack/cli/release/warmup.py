"""`llmstack warmup`: every task and schema at several prompt lengths, recorded as evidence for a promotion."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llmstack.cli.release.faults import described
from llmstack.cli.serve_options import EngineChoice, ReleaseDir
from llmstack.cli.terminal import DIFFERENT, fail, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.release.checks import target as options
from llmstack.release.checks.target import live_target
from llmstack.release.checks.warm_up import NUM_WARM, PromptError, WarmUpMeasurement, compile_times, warm_up
from llmstack.release.coverage import PROMPT_TOKENS, lengths, subjects
from llmstack.release.evidence import WARMUP, write_evidence
from llmstack.server.error import ServerStartError


def warmup(
    release_dir: ReleaseDir = DEFAULT_RELEASE_DIR,
    prompt_tokens: Annotated[
        list[int] | None, typer.Option(min=1, help=f"Prompt lengths, {PROMPT_TOKENS} without it. Repeatable.")
    ] = None,
    serve: options.Serve = False,
    engine: EngineChoice = None,
    http_url: options.HttpUrl = options.DEFAULT_HTTP_URL,
    grpc_url: options.GrpcUrl = options.DEFAULT_GRPC_URL,
    metrics_url: options.MetricsUrl = options.DEFAULT_METRICS_URL,
    ready_url: options.ReadyUrl = options.DEFAULT_READY_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Send every task and schema at several prompt lengths, cold and warm, and write warmup.json into the release.

    The server must serve exactly this release. Exits with 0 when every request was answered as it should be, with 1
    when not. A promotion asks for all the default lengths, as far as the release admits them.

    Example: llmstack warmup --release artifacts/releases/qwen3-32b-r7 --serve
    """
    began_s = time.time()
    try:
        with live_target(release_dir, serve, engine, http_url, grpc_url, metrics_url, ready_url) as target:
            prompt_lengths = lengths(target.release, tuple(prompt_tokens or PROMPT_TOKENS))
            with Progress(console=Console(stderr=True)) as progress:
                bar = progress.add_task("warming up", total=len(subjects(target.release)) * len(prompt_lengths))
                rows = warm_up(target, prompt_lengths, lambda row: progress.advance(bar))
            record = _record(rows) | compile_times(target.policy_metrics())
            passed = not any(row.fault for row in rows)
            path = write_evidence(target.release, WARMUP, passed=passed, began_s=began_s, record=record)
    except ServerStartError as error:
        fail(error, error.next_step)
    except httpx.HTTPError as error:
        fail(f"{metrics_url} can't be asked: {error}", "give --metrics-url")
    except PromptError as error:
        fail(
            error,
            "give --prompt-tokens of lengths that this tokenizer can make, and look into its vocabulary",
            DIFFERENT,
        )
    except OSError as error:
        fail(described(error), "make the release directory writable")
    if as_json:
        print_json({"passed": passed, **record})
    else:
        _print(rows, passed, path)
    raise typer.Exit(0 if passed else DIFFERENT)


def _record(rows: list[WarmUpMeasurement]) -> dict[str, object]:
    return {
        "num_requests": (1 + NUM_WARM) * len(rows),
        "cold_ms_max": max(row.cold_ms for row in rows),
        "warm_ms_max": max(row.warm_ms for row in rows),
        "queue_delay_us_max": max(row.queue_delay_us_max for row in rows),
        "rows": [row._asdict() for row in rows],
    }


def _print(rows: list[WarmUpMeasurement], passed: bool, path: Path) -> None:
    table = Table("what", "prompt tokens", "cold ms", "warm ms", "queue delay µs", "fault", title_justify="left")
    for row in rows:
        table.add_row(*(str(value) for value in row))
    console = Console()
    console.print(table)
    console.print(f"[green]✔ passed[/]: {path}" if passed else f"[red]✘ failed[/]: {path}", soft_wrap=True)
