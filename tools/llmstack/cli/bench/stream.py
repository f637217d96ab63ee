"""`llmstack bench stream`: what the policy adds to a stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llmstack.bench.plans import COMPLETION_TOKENS
from llmstack.cli.bench.options import CompletionTokens, MeasuredRelease
from llmstack.cli.server_start import exit_with_error
from llmstack.cli.terminal import fail, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError

if TYPE_CHECKING:
    from llmstack.bench.stream_overhead import StreamMeasurement, StreamPlan


def stream(
    release: MeasuredRelease = DEFAULT_RELEASE_DIR,
    concurrency: Annotated[list[int], typer.Option(min=1, help="Number of streams; repeatable.")] = [1, 16, 64],  # noqa: B006
    token_interval_ms: Annotated[
        float, typer.Option(min=1, help="The engine generates a token of each stream each so many milliseconds.")
    ] = 10.0,
    completion_tokens: CompletionTokens = COMPLETION_TOKENS,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds; both ways alternate within each.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Measure what the policy adds to a stream on the no-op engine, beside a model that passes its tokens through.

    Example: llmstack bench stream --concurrency 1 --rounds 3
    """
    from llmstack.bench.stream_overhead import StreamPlan

    plan = StreamPlan(tuple(concurrency), token_interval_ms, completion_tokens, rounds)
    console = Console(stderr=as_json)
    rows = run_stream_bench(release, plan, console)
    if as_json:
        print_json([row._asdict() for row in rows])
    else:
        console.print(results_table(rows, plan))


def run_stream_bench(release: Path, plan: StreamPlan, console: Console) -> list[StreamMeasurement]:
    """Measure on a server of its own, with a progress bar."""
    from engine_process.engines.echo import TOKEN_INTERVAL
    from llm_policy.release.release import Release
    from llmstack.bench.load import LoadError
    from llmstack.bench.stream_overhead import BASELINE_STREAMS, measure_stream_overhead
    from llmstack.server.process import TritonServer

    options = {TOKEN_INTERVAL: str(plan.token_interval_ms)}
    try:
        with (
            TritonServer(
                release, engine="echo", engine_options=options, extra_model_repositories=[BASELINE_STREAMS]
            ) as server,
            Progress(console=console, transient=True) as progress,
        ):
            task = progress.add_task("warming up", total=plan.num_measurements + 1)

            def on_start(title: str) -> None:
                progress.update(task, description=title, advance=1)

            return list(measure_stream_overhead(server, Release.open(release), plan, on_start))
    except ServerStartError as error:
        exit_with_error(error)
    except LoadError as error:
        fail(f"a request failed: {error}", "choose fewer tokens, or check the release's thresholds")


def results_table(rows: list[StreamMeasurement], plan: StreamPlan) -> Table:
    """The rows; what is compared with `pass_stream` stands beside it."""
    title = f"Streams of {plan.completion_tokens} tokens, one each {plan.token_interval_ms:g} ms (no-op engine, gRPC)"
    caption = "stub: processor time of the model's stub, per chunk; later: than pass_stream"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("way", no_wrap=True)
    for heading in ("at\nonce", "first\nms p50", "later\nms", "token\nms p50", "later\nms", "chunks\n/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("stub\nµs", "chunks\n/core s", "streams\n/core"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        first = (f"{row.first_token_ms_p50:.2f}", f"{row.first_token_later_ms:+.2f}")
        per_token = (f"{row.inter_token_ms_p50:.2f}", f"{row.inter_token_later_ms:+.3f}")
        core = (f"{row.stub_us_per_chunk:.0f}", f"{row.chunks_per_core_s:.0f}", f"{row.streams_per_core:.0f}")
        table.add_row(row.way, str(row.concurrency), *first, *per_token, f"{row.chunks_per_s:.0f}", *core)
    return table
