"""`llmstack warmup`: send every task and schema at several prompt lengths and record the results."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llmstack.cli.release import options
from llmstack.cli.release.errors import os_error_text
from llmstack.cli.serve_options import EngineChoice, ReleaseDir
from llmstack.cli.server_start import wait_with_progress
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.release.defaults import DEFAULT_URLS, PROMPT_TOKENS
from llmstack.server.error import ServerStartError

if TYPE_CHECKING:
    from llmstack.release.checks.warm_up import WarmUpMeasurement


def warmup(
    release_dir: ReleaseDir = DEFAULT_RELEASE_DIR,
    prompt_tokens: Annotated[
        list[int] | None, typer.Option(min=1, help=f"A prompt length; by default {PROMPT_TOKENS}. Repeatable.")
    ] = None,
    serve: options.Serve = False,
    engine: EngineChoice = None,
    http_url: options.HttpUrl = DEFAULT_URLS.http,
    grpc_url: options.GrpcUrl = DEFAULT_URLS.grpc,
    metrics_url: options.MetricsUrl = DEFAULT_URLS.metrics,
    ready_url: options.ReadyUrl = DEFAULT_URLS.ready,
    api_key: options.ApiKey = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Send every task and schema at several prompt lengths, cold and warm, and write warmup.json into the release.

    The server must serve exactly this release. A promotion needs all default lengths that the release admits. Exits
    with 0 when every answer was right, else with 1.

    Example: llmstack warmup --release artifacts/releases/qwen3-32b-r7 --serve
    """
    import httpx

    from llmstack.release.checks.target import LiveServerUrls, live_target
    from llmstack.release.checks.warm_up import PromptError, compile_times, warm_up
    from llmstack.release.coverage import coverage_items, prompt_lengths
    from llmstack.release.evidence import WARMUP, write_evidence

    began_s = time.time()
    urls = None if serve else LiveServerUrls(http_url, grpc_url, metrics_url, ready_url)
    wait_ready = partial(wait_with_progress, console=Console(stderr=True, highlight=False))
    try:
        with live_target(release_dir, urls, engine.value if engine else None, wait_ready, api_key) as target:
            lengths = prompt_lengths(target.release, tuple(prompt_tokens or PROMPT_TOKENS))
            num_rows = len(coverage_items(target.release)) * len(lengths)
            with Progress(console=Console(stderr=True)) as progress:
                bar = progress.add_task("warming up", total=num_rows)
                rows = warm_up(target, lengths, lambda row: progress.advance(bar))
            record = _record(rows) | compile_times(target.policy_metrics())
            passed = not any(row.fault for row in rows)
            path = write_evidence(target.release, WARMUP, passed=passed, began_s=began_s, record=record)
    except ServerStartError as error:
        fail(error, error.next_step)
    except httpx.HTTPError as error:
        fail(f"{metrics_url} does not answer: {error}", "give --metrics-url")
    except PromptError as error:
        fail(
            error,
            "give other --prompt-tokens, and check the tokenizer's vocabulary",
            EXIT_FAILED,
        )
    except OSError as error:
        fail(os_error_text(error), "make the release directory writable")
    if as_json:
        print_json({"passed": passed, **record})
    else:
        _print(rows, passed, path)
    raise typer.Exit(0 if passed else EXIT_FAILED)


def _record(rows: list[WarmUpMeasurement]) -> dict[str, object]:
    from llmstack.release.checks.warm_up import NUM_WARM

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
