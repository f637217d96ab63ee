"""`llmstack bench` without a subcommand: the policy's overhead, on requests and on streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llmstack.cli.bench.stream import results_table, run_stream_bench
from llmstack.cli.terminal import EXIT_FAILED

if TYPE_CHECKING:
    from llm_policy.release.release import Release
    from llmstack.bench.overhead import OverheadMeasurement
    from llmstack.server.process import TritonServer


def run_overhead_bench(release: Path, output: Path) -> None:
    """Measure with a progress bar, write the rows to `output` and print them."""
    import orjson

    from llm_policy.release.release import Release
    from llmstack.bench.overhead import BASELINE_MODELS
    from llmstack.bench.perf_analyzer import PerfAnalyzerError, find_perf_analyzer
    from llmstack.bench.process_usage import resident_mib
    from llmstack.bench.stream_overhead import StreamPlan
    from llmstack.server.process import TritonServer

    console = Console()
    try:
        perf_analyzer = find_perf_analyzer()
        with TritonServer(release, engine="echo", extra_model_repositories=[BASELINE_MODELS]) as server:
            rows = _measure(console, server, Release.open(release), perf_analyzer)
            memory = resident_mib(server.pid)
    except PerfAnalyzerError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(EXIT_FAILED) from None
    console.print(_results_table(rows))
    console.print(_memory_table(memory))
    plan = StreamPlan()
    streams = run_stream_bench(release, plan, console)
    console.print(results_table(streams, plan))
    record = {"requests": [row._asdict() for row in rows], "streams": [row._asdict() for row in streams]}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2))


def _measure(console: Console, server: TritonServer, release: Release, perf_analyzer: str) -> list[OverheadMeasurement]:
    from llmstack.bench.overhead import measure_overhead

    rows = []
    with Progress(console=console) as progress:
        task = progress.add_task("measuring", total=None)

        def on_start(title: str, num_measurements: int) -> None:
            progress.update(task, description=title, total=num_measurements)

        for row in measure_overhead(server, release, perf_analyzer, on_start):
            rows.append(row)
            progress.advance(task)
    return rows


def _results_table(rows: list[OverheadMeasurement]) -> Table:
    title = "Overhead of the policy (no-op engine, gRPC, 64 completion tokens)"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("way", no_wrap=True)
    for heading in ("prompt\ntokens", "concur-\nrency", "p50 µs", "p95", "p99", "req/s", "ratio", "CPU ms"):
        table.add_column(heading, justify="right")
    for row in rows:
        latencies = [f"{value:.0f}" for value in (row.p50_us, row.p95_us, row.p99_us, row.requests_per_s)]
        ratio, cpu = f"{row.ratio_to_pass_through:.2f}", f"{row.cpu_ms_per_request:.2f}"
        table.add_row(row.way, str(row.prompt_tokens), str(row.concurrency), *latencies, ratio, cpu)
    return table


def _memory_table(memory: dict[str, float]) -> Table:
    table = Table("process", "resident MiB", title="Memory")
    for title, mib in memory.items():
        table.add_row(title, f"{mib:.0f}")
    return table
