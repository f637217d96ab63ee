"""`llmstack smoke`: eval slices against a live server, recorded as evidence for a promotion."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llm_policy.release.digest import file_digest
from llmstack.cli.release.faults import described
from llmstack.cli.serve_options import EngineChoice, ReleaseDir
from llmstack.cli.terminal import DIFFERENT, fail, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR, PROJECT_ROOT
from llmstack.release.checks import target as options
from llmstack.release.checks.junit import junit_xml
from llmstack.release.checks.slice_file import SliceError, read_slices, slice_files
from llmstack.release.checks.smoke import FAILED, PASSED, REFUSED, SliceResult, run_slices
from llmstack.release.checks.target import live_target
from llmstack.release.evidence import SMOKE, write_evidence
from llmstack.server.error import ServerStartError

DEFAULT_SLICES = PROJECT_ROOT / "artifacts" / "slices"


def smoke(
    slices_dir: Annotated[
        Path, typer.Option("--slices", help="A directory of JSON-lines files, or one such file.")
    ] = DEFAULT_SLICES,
    release_dir: ReleaseDir = DEFAULT_RELEASE_DIR,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Requests at once.", show_default="the release's batch size")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here too.", show_default=False)] = None,
    serve: options.Serve = False,
    engine: EngineChoice = None,
    http_url: options.HttpUrl = options.DEFAULT_HTTP_URL,
    grpc_url: options.GrpcUrl = options.DEFAULT_GRPC_URL,
    metrics_url: options.MetricsUrl = options.DEFAULT_METRICS_URL,
    ready_url: options.ReadyUrl = options.DEFAULT_READY_URL,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Run eval slices and write smoke.json into the release.

    A slice that names another engine or quantisation is refused, not run, and the whole has not passed. The server must
    serve exactly this release. Exits with 0 when every slice passed, with 1 when not, with 2 when nothing could be run.

    Example: llmstack smoke --slices evaluation/slices --release artifacts/releases/qwen3-32b-r7 --junit smoke.xml
    """
    began_s = time.time()
    try:
        slices = read_slices(slices_dir)
        digests = {file.name: file_digest(file) for file in slice_files(slices_dir)}
        with live_target(release_dir, serve, engine, http_url, grpc_url, metrics_url, ready_url) as target:
            num_workers = concurrency or target.release.manifest.engine.max_batch_size
            with Progress(console=Console(stderr=True)) as progress:
                bar = progress.add_task("running slices", total=sum(map(len, slices.values())))
                results = run_slices(target, slices, num_workers, lambda result: progress.advance(bar))
            record = {"files": digests, **_record(results)}
            passed = all(result.verdict == PASSED for result in results)
            path = write_evidence(target.release, SMOKE, passed=passed, began_s=began_s, record=record)
        if junit is not None:
            junit.write_bytes(junit_xml(results))
    except SliceError as error:
        fail(error, "correct the slices; docs/releases.md says what a line may hold")
    except ServerStartError as error:
        fail(error, error.next_step)
    except OSError as error:
        fail(described(error), "make the release directory, and that of --junit, writable")
    if as_json:
        print_json({"passed": passed, **record})
    else:
        _print(results, passed, path)
    raise typer.Exit(0 if passed else DIFFERENT)


def _record(results: list[SliceResult]) -> dict[str, Any]:
    verdicts = [result.verdict for result in results]
    return {
        "num_slices": len(results),
        "num_passed": verdicts.count(PASSED),
        "num_refused": verdicts.count(REFUSED),
        "cost_usd": round(sum(result.cost_usd for result in results), 9),
        "queue_delay_us_max": max(result.queue_delay_us for result in results),
        "results": [result._asdict() for result in results],
    }


def _print(results: list[SliceResult], passed: bool, path: Path) -> None:
    console = Console()
    groups = Table("slices", "passed", "failed", "refused", "seconds", "cost USD", title_justify="left")
    for group in dict.fromkeys(result.group for result in results):
        members = [result for result in results if result.group == group]
        verdicts = [result.verdict for result in members]
        counts = (verdicts.count(verdict) for verdict in (PASSED, FAILED, REFUSED))
        seconds, cost = sum(r.seconds for r in members), sum(r.cost_usd for r in members)
        groups.add_row(group, *map(str, counts), f"{seconds:.1f}", f"{cost:.7f}")
    console.print(groups)
    for result in results:
        if result.faults:
            console.print(f"✘ {result.group} {result.id} {result.verdict}: {'; '.join(result.faults)}", markup=False)
    console.print(f"[green]✔ passed[/]: {path}" if passed else f"[red]✘ failed[/]: {path}", soft_wrap=True)
