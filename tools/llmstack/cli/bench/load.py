"""`llmstack bench load`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llmstack.cli.bench.options import CompletionTokens, MeasuredRelease, PromptTokens
from llmstack.cli.serve_options import EngineChoice
from llmstack.cli.server_start import exit_with_error
from llmstack.cli.terminal import fail, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError

if TYPE_CHECKING:
    from llm_policy.release.release import Release
    from llmstack.bench.load import LoadMeasurement
    from llmstack.bench.load_plan import LoadPlan
    from llmstack.server.process import TritonServer


def load(
    release_dir: MeasuredRelease = DEFAULT_RELEASE_DIR,
    engine: EngineChoice = None,
    concurrency: Annotated[list[int], typer.Option(min=1, help="Number of clients; repeatable.")] = [1, 4, 8],  # noqa: B006
    prompt_tokens: PromptTokens = 512,
    completion_tokens: CompletionTokens = 64,
    num_requests: Annotated[int, typer.Option("--requests", min=1, help="Number of requests per row.")] = 32,
    schema_id: Annotated[
        str | None, typer.Option(help="Schema of the guided requests; by default the release's first.")
    ] = None,
    guided_only: Annotated[bool, typer.Option("--guided-only", help="Send only guided requests.")] = False,
    output: Annotated[Path | None, typer.Option(help="JSON file for rows, machine and sizes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Load the whole stack with guided and unguided requests: throughput, latencies, the policy's share of the time.

    Example: llmstack bench load --concurrency 1 --concurrency 4 --requests 16
    """
    import orjson

    from llmstack.bench.load import LoadError
    from llmstack.bench.load_plan import LoadPlan, describe_run
    from llmstack.server.process import TritonServer
    from llmstack.server.release import open_release

    try:
        release = open_release(release_dir)
        plan = LoadPlan(
            concurrency,
            prompt_tokens,
            completion_tokens,
            num_requests,
            schema_id or sorted(release.manifest.schemas)[0],
            (True,) if guided_only else (False, True),
        )
        with TritonServer(release_dir=release.directory, engine=engine.value if engine else "embedded") as server:
            rows = _measure(server, release, plan)
            record = describe_run(server, release, plan) if output else {}
    except ServerStartError as error:
        exit_with_error(error)
    except LoadError as error:
        fail(f"a request failed: {error}", "choose fewer tokens, or check the release's thresholds")
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        record["rows"] = [row._asdict() for row in rows]
        output.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    if as_json:
        print_json([row._asdict() for row in rows])
    else:
        Console().print(_results_table(rows, plan))


def _measure(server: TritonServer, release: Release, plan: LoadPlan) -> list[LoadMeasurement]:
    from llmstack.bench.load_plan import measure_plan

    with Progress(console=Console(stderr=True, highlight=False), transient=True) as progress:
        task = progress.add_task("warming up", total=plan.total_requests)
        return list(
            measure_plan(
                server,
                release,
                plan,
                on_start=lambda title: progress.update(task, description=title),
                on_reply=lambda: progress.advance(task),
            )
        )


def _results_table(rows: list[LoadMeasurement], plan: LoadPlan) -> Table:
    title = f"Ensemble: {plan.prompt_tokens} prompt tokens, at most {plan.completion_tokens} completion tokens"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    for heading in ("concur-\nrency", "tok/s", "tokens", "TTFT\nms p50", "\nmax", "queue\nµs p50", "\nmax"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("total\nms p50", "policy\nshare"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        values = (row.tokens_per_s, row.completion_tokens, row.ttft_ms_p50, row.ttft_ms_max)
        delays = (row.queue_delay_us_p50, row.queue_delay_us_max, row.latency_ms_p50)
        cells = [f"{value:.0f}" for value in (row.concurrency, *values, *delays)]
        table.add_row("guided" if row.guided else "unguided", *cells, f"{row.policy_share:.2%}")
    return table
