"""The policy's overhead, measured by perf_analyzer against the no-op engine.

One run measures several ways to reach the engine in turn, so that their ratios hold on a noisy machine: the engine
called directly with token ids, two ensembles without policy (`baseline_models/`), and our ensemble without and with a
guide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tritonclient.grpc import InferenceServerClient

from llm_policy.release.release import Release
from llm_policy.text.tokenizer import Tokenizer
from llmstack.bench.perf_analyzer import PerfAnalyzer
from llmstack.bench.process_usage import cpu_seconds
from llmstack.bench.prompt import Prompt, build_prompt
from llmstack.client.ensemble_client import release_headers
from llmstack.server.process import TritonServer

BASELINE_MODELS = Path(__file__).with_name("baseline_models")
PROMPT_TOKENS = (500, 3_500)
COMPLETION_TOKENS = 64
CONCURRENCIES = (1, 4, 16)
WINDOW_MS = 1_000


class Way(NamedTuple):
    """One way to reach the engine: a Triton model, and its inputs for a prompt."""

    name: str
    model: str
    inputs: Callable[[Prompt], dict[str, Any]]


class OverheadMeasurement(NamedTuple):
    """The results of one way at one prompt length and concurrency; CPU time is that of the server and its stubs."""

    way: str
    prompt_tokens: int
    concurrency: int
    p50_us: float
    p95_us: float
    p99_us: float
    requests_per_s: float
    ratio_to_pass_through: float
    cpu_ms_per_request: float


def list_ways(schema_id: str) -> tuple[Way, ...]:
    """All ways, `pass_through` first because the others are compared with it.

    `pass_through` has the ensemble's tensors and engine, but no policy. `bare` is the cheapest possible chain of three
    Python steps, with a single tensor.
    """
    limit = {"max_tokens": [COMPLETION_TOKENS]}
    return (
        Way("pass_through", "pass_through", lambda prompt: {"text_input": [prompt.text], **limit}),
        Way("bare", "bare", lambda prompt: {"text_input": [prompt.text]}),
        Way("engine", "tensorrt_llm", lambda prompt: _engine_inputs(prompt.token_ids)),
        Way("ensemble", "ensemble", lambda prompt: {"text_input": [prompt.text], **limit}),
        Way(
            "ensemble_guided",
            "ensemble",
            lambda prompt: {"text_input": [prompt.text], "schema_id": [schema_id], **limit},
        ),
    )


def measure_overhead(
    server: TritonServer, release: Release, perf_analyzer: str, on_start: Callable[[str, int], None]
) -> Iterator[OverheadMeasurement]:
    """Measure every way at every prompt length and concurrency.

    `server` runs the no-op engine and has `BASELINE_MODELS` loaded; `perf_analyzer` is the path of the program. Before
    each measurement `on_start` receives its description and the number of measurements in all.

    Raises:
        PerfAnalyzerError: a measurement failed.
    """
    analyzer = PerfAnalyzer(perf_analyzer, server.grpc_url, release_headers(release))
    tokenizer = Tokenizer.load(release.tokenizer_dir)
    ways = list_ways(sorted(release.manifest.schemas)[0])
    cells = [(num_tokens, concurrency) for num_tokens in PROMPT_TOKENS for concurrency in CONCURRENCIES]
    for num_tokens, concurrency in cells:
        prompt = build_prompt(tokenizer, num_tokens)
        baseline = 0.0
        for way in ways:
            title = f"{way.name}, {len(prompt.token_ids)} tokens, concurrency {concurrency}"
            on_start(title, len(cells) * len(ways))
            row = _measure_way(analyzer, server, way, prompt, concurrency)
            baseline = baseline or row.requests_per_s
            yield row._replace(ratio_to_pass_through=round(row.requests_per_s / baseline, 3))


def _measure_way(
    analyzer: PerfAnalyzer, server: TritonServer, way: Way, prompt: Prompt, concurrency: int
) -> OverheadMeasurement:
    cpu_before, requests_before = cpu_seconds(server.pid), _num_successful(server, way.model)
    measured = analyzer.measure(way.model, way.inputs(prompt), concurrency, WINDOW_MS)
    num_requests = _num_successful(server, way.model) - requests_before
    cpu_ms = (cpu_seconds(server.pid) - cpu_before) * 1_000 / num_requests
    latencies = (measured.p50_us, measured.p95_us, measured.p99_us)
    return OverheadMeasurement(
        way.name, len(prompt.token_ids), concurrency, *latencies, measured.requests_per_s, 1.0, round(cpu_ms, 3)
    )


def _num_successful(server: TritonServer, model: str) -> int:
    """Successful requests of `model` so far, by Triton's own statistics."""
    with InferenceServerClient(server.grpc_url) as client:
        (statistics,) = client.get_inference_statistics(model, as_json=True)["model_stats"]
    return int(statistics["inference_stats"]["success"].get("count", 0))


def _engine_inputs(token_ids: list[int]) -> dict[str, Any]:
    return {
        "input_ids": {"content": token_ids, "shape": [len(token_ids)]},
        "input_lengths": [len(token_ids)],
        "request_output_len": [COMPLETION_TOKENS],
        "end_id": [0],
        "pad_id": [0],
    }
