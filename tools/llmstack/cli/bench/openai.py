"""`llmstack bench openai`: what the OpenAI front end costs."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from llmstack.bench.plans import OpenAIPlan
from llmstack.cli.bench.options import MeasuredRelease
from llmstack.cli.server_start import exit_with_error
from llmstack.cli.terminal import fail, print_json
from llmstack.paths import DEFAULT_RELEASE_DIR
from llmstack.server.error import ServerStartError

if TYPE_CHECKING:
    from llmstack.bench.openai_overhead import FrontEnd, ManyStreams, OpenAIOverhead
    from llmstack.server.openai_process import OpenAIProcess
    from llmstack.server.process import TritonServer

_HOST = "127.0.0.1"
_PLAN = OpenAIPlan()


def openai(
    release: MeasuredRelease = DEFAULT_RELEASE_DIR,
    requests: Annotated[int, typer.Option(min=1, help="Requests of a round, each way.")] = _PLAN.num_requests,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds; both ways take turns.")] = _PLAN.rounds,
    streams: Annotated[int, typer.Option(min=1, help="Streams at once through one process.")] = _PLAN.num_streams,
    token_interval_ms: Annotated[
        float, typer.Option(min=1, help="The engine generates a token of each stream each so many milliseconds.")
    ] = 250.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Measure what the OpenAI front end adds to a request, and many streams through one of its processes.

    Example: llmstack bench openai --streams 256
    """
    from llm_policy.release.release import Release
    from llmstack.bench.load import LoadError
    from llmstack.bench.openai_overhead import with_long_queue

    plan = OpenAIPlan(requests, rounds, _PLAN.completion_tokens, streams)
    console = Console(stderr=as_json)
    try:
        with tempfile.TemporaryDirectory(prefix="llmstack-") as directory:
            copy = with_long_queue(Release.open(release), Path(directory), 2 * streams)
            with console.status("measuring requests"):
                overhead = _measure_overhead(copy, Path(directory) / "requests", plan)
            with console.status("measuring streams"):
                many = _measure_streams(copy, Path(directory) / "streams", plan, token_interval_ms)
    except ServerStartError as error:
        exit_with_error(error)
    except LoadError as error:
        fail(f"a request failed: {error}", "choose fewer streams, or check the release's thresholds")
    if as_json:
        print_json({"requests": overhead._asdict(), "streams": many._asdict()})
    else:
        _print(console, overhead, many)


def _measure_overhead(release: Path, state_dir: Path, plan: OpenAIPlan) -> OpenAIOverhead:
    from llm_policy.release.release import Release
    from llmstack.bench.bare_front_end import bare_front_end
    from llmstack.bench.openai_overhead import FrontEnd, measure_overhead
    from llmstack.server.process import TritonServer

    with TritonServer(release, engine="echo", state_dir=state_dir) as server, bare_front_end(server.grpc_url) as bare:
        front_end = _start_front_end(server)
        try:
            ours, floor = _front_end(front_end), FrontEnd(*bare)
            return asyncio.run(measure_overhead(server, ours, floor, Release.open(release), plan))
        finally:
            front_end.stop()


def _measure_streams(release: Path, state_dir: Path, plan: OpenAIPlan, token_interval_ms: float) -> ManyStreams:
    from engine_process.engines.echo import TOKEN_INTERVAL
    from llm_policy.release.release import Release
    from llmstack.bench.openai_overhead import measure_many_streams
    from llmstack.server.process import TritonServer

    options = {TOKEN_INTERVAL: str(token_interval_ms)}
    with TritonServer(release, engine="echo", engine_options=options, state_dir=state_dir) as server:
        front_end = _start_front_end(server)
        try:
            ours, opened = _front_end(front_end), Release.open(release)
            asyncio.run(measure_many_streams(ours, opened, plan._replace(num_streams=4)))  # warm-up
            return asyncio.run(measure_many_streams(ours, opened, plan))
        finally:
            front_end.stop()


def _start_front_end(server: TritonServer) -> OpenAIProcess:
    from llmstack.server.openai_process import OpenAIProcess
    from llmstack.server.ports import listen

    listener = listen(_HOST, "openai", 0)
    front_end = OpenAIProcess(listener, server.grpc_url, server.release_dir, server.log_path.parent)
    front_end.start()
    return front_end


def _front_end(process: OpenAIProcess) -> FrontEnd:
    from llmstack.bench.load import LoadError
    from llmstack.bench.openai_overhead import FrontEnd

    if process.pid is None:
        raise LoadError("the OpenAI front end ended")
    return FrontEnd(f"http://{_HOST}:{process.port}/v1/chat/completions", process.pid)


def _print(console: Console, overhead: OpenAIOverhead, many: ManyStreams) -> None:
    table = Table(title="One request after the other (no-op engine)", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("clients")
    for heading in ("gRPC ms p50", "OpenAI API ms p50", "added ms p50"):
        table.add_column(heading, justify="right")
    for name, figures in (("tritonclient, httpx", overhead[:3]), ("bare", overhead[3:6])):
        table.add_row(name, *(f"{value:.2f}" for value in figures))
    console.print(table)
    table = Table(title="Processor time of the front end for each request", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("clients at once", "ms", "of a front end that reads nothing"):
        table.add_column(heading, justify="right")
    table.add_row("1", f"{overhead.front_end_cpu_ms:.2f}", f"{overhead.floor_cpu_ms:.2f}")
    busy = overhead.busy_front_end_cpu_ms, overhead.busy_floor_cpu_ms
    table.add_row(str(overhead.num_clients), *(f"{value:.2f}" for value in busy))
    console.print(table)
    table = Table(title="Streams through one process", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("streams", "whole", "first ms p50", "first ms max", "seconds", "KiB/stream", "CPU s"):
        table.add_column(heading, justify="right")
    table.add_row(*(f"{value:g}" for value in many))
    console.print(table)
