"""`llmstack bench gate`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from llmstack.cli.bench.options import CompletionTokens, PromptTokens
from llmstack.cli.release.errors import os_error_text
from llmstack.cli.serve_options import EngineChoice, ReleaseDir
from llmstack.cli.server_start import exit_with_error
from llmstack.cli.terminal import EXIT_FAILED, fail, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError

if TYPE_CHECKING:
    from llm_policy.release.release import Release
    from llmstack.bench.batch_gate import BatchGateResult


def gate(
    max_batch_size: Annotated[int, typer.Option(min=1, help="The batch size in the release's manifest.")],
    release_dir: ReleaseDir = DEFAULT_RELEASE_DIR,
    engine: EngineChoice = None,
    prompt_tokens: PromptTokens = 512,
    completion_tokens: CompletionTokens = 64,
    num_requests: Annotated[
        int, typer.Option("--requests", min=100, help="Number of requests; a 99th percentile needs 100 or more.")
    ] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Measure the queue delay with a full batch and write bench_gate.json into the release.

    Passes when the 99th percentile of the queue delay is within the manifest's max_queue_delay_us; promotion requires
    this for a batch size above 4. An engine with fewer slots than the manifest states fails, because requests wait for
    a slot. The record also has the delay with one request more than slots, where each request waits on any engine.
    Exits with 0 if it passes, else with 1.

    Example: llmstack bench gate --max-batch-size 8 --release artifacts/releases/qwen3-32b-b8
    """
    from llmstack.bench.batch_gate import measure_batch_gate
    from llmstack.bench.load import LoadError
    from llmstack.release.checks.target import check_engine
    from llmstack.release.evidence import BENCH_GATE, write_evidence
    from llmstack.server.process import TritonServer
    from llmstack.server.release import open_release, pick_engine

    began_s = time.time()
    try:
        release = open_release(release_dir)
        _check_batch_size(release, max_batch_size)
        engine_name = check_engine(engine.value if engine else pick_engine(release))
        with (
            TritonServer(release_dir=release.directory, engine=engine_name) as server,
            Progress(console=Console(stderr=True), transient=True) as progress,
        ):
            title = f"concurrency {max_batch_size} and {max_batch_size + 1}"
            task = progress.add_task(title, total=2 * num_requests)
            result = measure_batch_gate(
                server, release, prompt_tokens, completion_tokens, num_requests, lambda: progress.advance(task)
            )
        record = result.record(engine_name)
        path = write_evidence(release, BENCH_GATE, passed=result.passed, began_s=began_s, record=record)
    except ServerStartError as error:
        exit_with_error(error)
    except LoadError as error:
        fail(f"a request failed: {error}", "choose fewer tokens, or check the release's thresholds")
    except OSError as error:
        fail(os_error_text(error), "make the release directory writable")
    if as_json:
        print_json({"passed": result.passed, **record})
    else:
        Console(soft_wrap=True, highlight=False).print(f"{_summary(result)}: {path}")
    raise typer.Exit(0 if result.passed else EXIT_FAILED)


def _check_batch_size(release: Release, max_batch_size: int) -> None:
    size = release.manifest.engine.max_batch_size
    if size != max_batch_size:
        fail(
            f"the manifest of {release.directory.name} has engine.max_batch_size {size}, not {max_batch_size}",
            f"give --max-batch-size {size}, or build a manifest with {max_batch_size}",
        )


def _summary(result: BatchGateResult) -> str:
    mark = "[green]✔ passed[/]" if result.passed else "[red]✘ failed[/]"
    size = result.max_batch_size
    return (
        f"{mark}: queue delay (p99) {result.delay_us:.0f} µs at concurrency {size}, limit {result.limit_us} µs; "
        f"{result.one_more_delay_us:.0f} µs at concurrency {size + 1}"
    )
