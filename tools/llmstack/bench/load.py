"""A closed loop of clients on the ensemble: their latencies and throughput, and the policy's share of the time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from tritonclient.grpc import InferenceServerClient

from llmstack.client.ensemble_client import Headers, Inputs, Reply, Server, open_grpc, send_over

STEPS = ("preprocess", "tensorrt_llm", "postprocess", "ensemble")
_MIN_REQUESTS_FOR_P99 = 100  # with fewer it would be the maximum


class LoadError(RuntimeError):
    """A request got an error, so the load can't be measured."""


class Workload(NamedTuple):
    """`num_requests` requests, `concurrency` of them in flight; `inputs_of` returns the inputs by request number."""

    inputs_of: Callable[[int], Inputs]
    is_guided: bool
    concurrency: int
    num_requests: int


class LoadMeasurement(NamedTuple):
    """Results of one workload. `policy_share` is preprocess and postprocess over the ensemble's time.

    `outside_engine_ms_p50` is what a client waits for beyond the time that the engine counts: network, Triton and
    policy. The 99th percentiles are None for fewer than 100 requests.
    """

    guided: bool
    concurrency: int
    num_requests: int
    completion_tokens: float  # mean per request
    tokens_per_s: float
    ttft_ms_p50: float
    ttft_ms_p99: float | None
    ttft_ms_max: float
    queue_delay_us_p50: float
    queue_delay_us_p99: float | None
    queue_delay_us_max: float
    latency_ms_p50: float
    latency_ms_p99: float | None
    latency_ms_max: float
    policy_share: float
    outside_engine_ms_p50: float


def measure_load(
    server: Server, headers: Headers, workload: Workload, on_reply: Callable[[], None] = lambda: None
) -> LoadMeasurement:
    """Send the workload over gRPC and wait for all replies. Each client keeps its connection.

    Raises:
        LoadError: a request got an error.
    """
    numbers = iter(range(workload.num_requests))  # advanced by several threads, which the interpreter's lock allows
    replies: list[tuple[Reply, float]] = []

    def work() -> None:
        with open_grpc(server) as client:
            for number in numbers:
                began = time.perf_counter()
                reply = send_over(client, workload.inputs_of(number), headers)
                if reply.error:
                    raise LoadError(reply.error)
                replies.append((reply, time.perf_counter() - began))
                on_reply()

    before = step_seconds(server)
    began = time.perf_counter()
    with ThreadPoolExecutor(workload.concurrency) as clients:
        running = [clients.submit(work) for _ in range(workload.concurrency)]
        for future in running:
            future.result()
    elapsed_s = time.perf_counter() - began
    spent_s = {step: seconds - before[step] for step, seconds in step_seconds(server).items()}
    return _summarise(workload, replies, elapsed_s, spent_s)


def step_seconds(server: Server) -> dict[str, float]:
    """Seconds that successful requests have spent in each step so far, including the wait in its queue."""
    with InferenceServerClient(server.grpc_url) as client:
        models = {step: client.get_inference_statistics(step, as_json=True)["model_stats"][0] for step in STEPS}
    return {step: int(model["inference_stats"]["success"].get("ns", 0)) / 1e9 for step, model in models.items()}


def _summarise(
    workload: Workload, replies: list[tuple[Reply, float]], elapsed_s: float, spent_s: Mapping[str, float]
) -> LoadMeasurement:
    num_tokens = sum(reply.first("num_output_tokens") for reply, _ in replies)
    return LoadMeasurement(
        workload.is_guided,
        workload.concurrency,
        len(replies),
        round(num_tokens / len(replies), 1),
        round(num_tokens / elapsed_s, 1),
        *_percentiles([reply.first("time_to_first_token_us") / 1e3 for reply, _ in replies]),
        *_percentiles([reply.first("queue_delay_us") for reply, _ in replies]),
        *_percentiles([seconds * 1e3 for _, seconds in replies]),
        round((spent_s["preprocess"] + spent_s["postprocess"]) / spent_s["ensemble"], 5),
        round(statistics.median(seconds * 1e3 - reply.first("total_time_us") / 1e3 for reply, seconds in replies), 2),
    )


def _percentiles(values: list[Any]) -> tuple[float, float | None, float]:
    """The median, the 99th percentile and the maximum."""
    ordered = sorted(values)
    p99 = round(ordered[int(0.99 * len(ordered))], 1) if len(ordered) >= _MIN_REQUESTS_FOR_P99 else None
    return round(statistics.median(ordered), 1), p99, round(ordered[-1], 1)
