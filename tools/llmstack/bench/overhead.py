"""`llmstack bench`: what the policy costs, measured by perf_analyzer against the no-op engine.

Four ways in one run, interleaved, so that their ratios hold on a noisy machine: the engine called directly with token
ids, a three-step ensemble that only hands its input on, and our ensemble without and with a guide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import psutil
import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tritonclient.grpc import InferenceServerClient

from llm_policy.release.release import Release
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION
from llm_policy.text.tokenizer import Tokenizer
from llmstack.bench.perf_analyzer import Measurement, PerfAnalyzer, PerfAnalyzerError, find_perf_analyzer
from llmstack.server.process import TritonServer

PASS_THROUGH_REPOSITORY = Path(__file__).with_name("baseline_models")
PROMPT_TOKENS = (500, 3_500)
COMPLETION_TOKENS = 64
CONCURRENCIES = (1, 4, 16)
WINDOW_MS = 1_000
_SENTENCE = "Order 4711 was placed by Ada Lovelace on 3 May and shipped to Leeds in two parcels. "


class Way(NamedTuple):
    """One way to reach an engine: a model and the inputs for a prompt."""

    name: str
    model: str
    inputs: Callable[[str, list[int]], dict[str, Any]]


class OverheadMeasurement(NamedTuple):
    """One cell of the table; CPU time is that of the server and its stubs."""

    way: str
    prompt_tokens: int
    concurrency: int
    p50_us: float
    p95_us: float
    p99_us: float
    requests_per_s: float
    ratio_to_pass_through: float
    cpu_ms_per_request: float


def ways(schema_id: str) -> tuple[Way, ...]:
    """All ways; pass-through leads, because the others are compared with it. It has the ensemble's own tensors and
    engine and no policy; `bare` is the cheapest chain of three Python steps that there can be, one tensor long."""
    ensemble = {"max_tokens": [COMPLETION_TOKENS]}
    return (
        Way("pass_through", "pass_through", lambda text, ids: {"text_input": [text], **ensemble}),
        Way("bare", "bare", lambda text, ids: {"text_input": [text]}),
        Way("engine", "tensorrt_llm", lambda text, ids: _engine_inputs(ids)),
        Way("ensemble", "ensemble", lambda text, ids: {"text_input": [text], **ensemble}),
        Way(
            "ensemble_guided",
            "ensemble",
            lambda text, ids: {"text_input": [text], "schema_id": [schema_id], **ensemble},
        ),
    )


def _engine_inputs(ids: list[int]) -> dict[str, Any]:
    return {
        "input_ids": {"content": ids, "shape": [len(ids)]},
        "input_lengths": [len(ids)],
        "request_output_len": [COMPLETION_TOKENS],
        "end_id": [0],
        "pad_id": [0],
    }


def prompt_of(tokenizer: Tokenizer, num_tokens: int) -> tuple[str, list[int]]:
    """English of about `num_tokens` tokens, and its ids."""
    sentence_tokens = len(tokenizer.encode_text(_SENTENCE))
    text = _SENTENCE * max(1, round(num_tokens / sentence_tokens))
    return text, [int(token) for token in tokenizer.encode_text(text)]


def measure_overhead(release: Path, output: Path) -> None:
    """Measure the policy against the no-op engine, print it beside a pass-through ensemble, write `output`."""
    console = Console()
    try:
        binary = find_perf_analyzer()
        with TritonServer(release, engine="echo", extra_model_repositories=[PASS_THROUGH_REPOSITORY]) as server:
            rows = list(_measure(server, Release.open(release), binary, console))
            memory = resident_mib(server.pid)
    except PerfAnalyzerError as error:
        console.print(f"[red]{error}")
        raise typer.Exit(1) from None
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(orjson.dumps([row._asdict() for row in rows], option=orjson.OPT_INDENT_2))
    _print(console, rows, memory)


def _measure(server: TritonServer, release: Release, binary: str, console: Console) -> Iterator[OverheadMeasurement]:
    manifest = release.manifest
    headers = {ENGINE_HASH: manifest.engine.hash, QUANTISATION: manifest.engine.quantisation}
    analyzer = PerfAnalyzer(binary, server.grpc_url, headers)
    tokenizer = Tokenizer.load(release.tokenizer_dir)
    all_ways = ways(sorted(manifest.schemas)[0])
    cells = [(num_tokens, concurrency) for num_tokens in PROMPT_TOKENS for concurrency in CONCURRENCIES]
    with Progress(console=console) as progress:
        task = progress.add_task("measuring", total=len(cells) * len(all_ways))
        for num_tokens, concurrency in cells:
            text, ids = prompt_of(tokenizer, num_tokens)
            baseline = 0.0
            for way in all_ways:
                progress.update(task, description=f"{way.name}, {len(ids)} tokens, {concurrency} at a time")
                row = _cell(analyzer, server, way, text, ids, concurrency)
                baseline = baseline or row.requests_per_s
                progress.advance(task)
                yield row._replace(ratio_to_pass_through=round(row.requests_per_s / baseline, 3))


def _cell(
    analyzer: PerfAnalyzer, server: TritonServer, way: Way, text: str, ids: list[int], concurrency: int
) -> OverheadMeasurement:
    inputs, pid = way.inputs(text, ids), server.pid
    before, answered_before = cpu_seconds(pid), _answered(server, way.model)
    measured: Measurement = analyzer.measure(way.model, inputs, concurrency, WINDOW_MS)
    num_answered = _answered(server, way.model) - answered_before
    cpu_ms = (cpu_seconds(pid) - before) * 1_000 / num_answered
    latencies = (measured.p50_us, measured.p95_us, measured.p99_us)
    return OverheadMeasurement(
        way.name, len(ids), concurrency, *latencies, measured.requests_per_s, 1.0, round(cpu_ms, 3)
    )


def _answered(server: TritonServer, model: str) -> int:
    """Requests that `model` has answered so far, by the server's own count."""
    with InferenceServerClient(server.grpc_url) as client:
        (statistics,) = client.get_inference_statistics(model, as_json=True)["model_stats"]
    return int(statistics["inference_stats"]["success"].get("count", 0))


def _family(pid: int) -> list[psutil.Process]:
    server = psutil.Process(pid)
    return [server, *server.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """CPU seconds used so far by the server and everything that it started."""
    times = [process.cpu_times() for process in _family(pid)]
    return float(sum(t.user + t.system for t in times))


def resident_mib(pid: int) -> dict[str, float]:
    """Resident memory in MiB of the server and each of its processes, by what it runs."""
    return {_title(process): round(process.memory_info().rss / (1 << 20), 1) for process in _family(pid)}


def _title(process: psutil.Process) -> str:
    command = process.cmdline()
    model = next((Path(part).parent.parent.name for part in command if part.endswith("model.py")), "")
    return f"{process.name()} {model or process.pid}"


def _print(console: Console, rows: list[OverheadMeasurement], memory: dict[str, float]) -> None:
    title = "Overhead of the policy (no-op engine, gRPC, 64 completion tokens)"
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("way", no_wrap=True)
    for heading in ("prompt", "at once", "p50 µs", "p95", "p99", "req/s", "ratio", "CPU ms"):
        table.add_column(heading, justify="right")
    for row in rows:
        latencies = [f"{value:.0f}" for value in (row.p50_us, row.p95_us, row.p99_us, row.requests_per_s)]
        ratio, cpu = f"{row.ratio_to_pass_through:.2f}", f"{row.cpu_ms_per_request:.2f}"
        table.add_row(row.way, str(row.prompt_tokens), str(row.concurrency), *latencies, ratio, cpu)
    console.print(table)
    resident = Table("process", "resident MiB", title="Memory")
    for title, mib in memory.items():
        resident.add_row(title, f"{mib:.0f}")
    console.print(resident)
