"""`llmstack smoke`: run eval slices against a live server and record the results for the promotion gates."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llmstack.cli.release import options
from llmstack.cli.release.errors import os_error_text
from llmstack.cli.serve_options import EngineChoice, ReleaseDir
from llmstack.cli.server_start import wait_with_progress
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.paths import DEFAULT_ARTIFACTS_DIR, DEFAULT_RELEASE_DIR
from llmstack.release.defaults import DEFAULT_URLS
from llmstack.server.error import ServerStartError

if TYPE_CHECKING:
    from llmstack.release.checks.smoke import SliceResult

DEFAULT_SLICES = DEFAULT_ARTIFACTS_DIR / "slices"


def smoke(
    slices_dir: Annotated[
        Path, typer.Option("--slices", help="A directory of JSON-lines files, or one such file.")
    ] = DEFAULT_SLICES,
    release_dir: ReleaseDir = DEFAULT_RELEASE_DIR,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Concurrent requests.", show_default="the release's batch size")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML to this file.", show_default=False)] = None,
    serve: options.Serve = False,
    engine: EngineChoice = None,
    http_url: options.HttpUrl = DEFAULT_URLS.http,
    grpc_url: options.GrpcUrl = DEFAULT_URLS.grpc,
    metrics_url: options.MetricsUrl = DEFAULT_URLS.metrics,
    ready_url: options.ReadyUrl = DEFAULT_URLS.ready,
    api_key: options.ApiKey = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Run eval slices and write smoke.json into the release.

    The server must serve exactly this release. A slice for another engine or quantisation is refused: it is not sent,
    and the run does not pass. Exits with 0 when every slice passed, with 1 when not, with 2 when none could be run.

    Example: llmstack smoke --slices evaluation/slices --release artifacts/releases/qwen3-32b-r7 --junit smoke.xml
    """
    from llm_policy.release.digest import file_digest
    from llmstack.release.checks.junit import junit_xml
    from llmstack.release.checks.slice_file import SliceError, read_slices, slice_files
    from llmstack.release.checks.smoke import PASSED, run_slices
    from llmstack.release.checks.target import LiveServerUrls, live_target
    from llmstack.release.evidence import SMOKE, write_evidence

    began_s = time.time()
    urls = None if serve else LiveServerUrls(http_url, grpc_url, metrics_url, ready_url)
    wait_ready = partial(wait_with_progress, console=Console(stderr=True, highlight=False))
    try:
        slices = read_slices(slices_dir)
        digests = {file.name: file_digest(file) for file in slice_files(slices_dir)}
        with live_target(release_dir, urls, engine.value if engine else None, wait_ready, api_key) as target:
            num_workers = concurrency or target.release.manifest.engine.max_batch_size
            with Progress(console=Console(stderr=True)) as progress:
                bar = progress.add_task("running slices", total=sum(map(len, slices.values())))
                results = run_slices(target, slices, num_workers, lambda result: progress.advance(bar))
            record = {"files": digests, **_record(results)}
            passed = all(result.status == PASSED for result in results)
            path = write_evidence(target.release, SMOKE, passed=passed, began_s=began_s, record=record)
        if junit is not None:
            junit.write_bytes(junit_xml(results))
    except SliceError as error:
        fail(error, "correct the slices; docs/releases.md lists the keys")
    except ServerStartError as error:
        fail(error, error.next_step)
    except OSError as error:
        fail(os_error_text(error), "make the release directory and that of --junit writable")
    if as_json:
        print_json({"passed": passed, **record})
    else:
        _print(results, passed, path)
    raise typer.Exit(0 if passed else EXIT_FAILED)


def _record(results: list[SliceResult]) -> dict[str, Any]:
    from llmstack.release.checks.smoke import PASSED, REFUSED

    statuses = [result.status for result in results]
    return {
        "num_slices": len(results),
        "num_passed": statuses.count(PASSED),
        "num_refused": statuses.count(REFUSED),
        "cost_usd": round(sum(result.cost_usd for result in results), 9),
        "queue_delay_us_max": max(result.queue_delay_us for result in results),
        "results": [result.to_record() for result in results],
    }


def _print(results: list[SliceResult], passed: bool, path: Path) -> None:
    from llmstack.release.checks.smoke import FAILED, PASSED, REFUSED

    console = Console()
    groups = Table("slices", "passed", "failed", "refused", "seconds", "cost USD", title_justify="left")
    for group in dict.fromkeys(result.group for result in results):
        members = [result for result in results if result.group == group]
        statuses = [result.status for result in members]
        counts = (statuses.count(status) for status in (PASSED, FAILED, REFUSED))
        seconds, cost = sum(r.seconds for r in members), sum(r.cost_usd for r in members)
        groups.add_row(group, *map(str, counts), f"{seconds:.1f}", f"{cost:.7f}")
    console.print(groups)
    for result in results:
        if result.faults:
            console.print(f"✘ {result.group} {result.id} {result.status}: {'; '.join(result.faults)}", markup=False)
    console.print(f"[green]✔ passed[/]: {path}" if passed else f"[red]✘ failed[/]: {path}", soft_wrap=True)
