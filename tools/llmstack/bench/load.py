"""A closed loop of clients on the ensemble: what they get, and where the time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from tritonclient.grpc import InferenceServerClient

from llmstack.client.ensemble_client import Headers, Inputs, Reply, Server, send_grpc

STEPS = ("preprocess", "tensorrt_llm", "postprocess", "ensemble")


class LoadError(RuntimeError):
    """A request was refused or failed, so there is nothing to measure."""


class LoadMeasurement(NamedTuple):
    """One cell over its requests; `policy_share` is of the ensemble's time.

    The 99th percentiles are None for fewer than 100 requests, of which they would be the maximum.
    """

    guided: bool
    concurrency: int
    num_requests: int
    completion_tokens: float  # mean of a request
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


def measure(
    server: Server,
    headers: Headers,
    inputs_of: Callable[[int], Inputs],
    is_guided: bool,
    concurrency: int,
    num_requests: int,
    on_answer: Callable[[], None],
) -> LoadMeasurement:
    """Keep `concurrency` requests under way until `num_requests` are answered.

    Raises:
        LoadError: one was not answered.
    """

    def send(number: int) -> tuple[Reply, float]:
        began = time.perf_counter()
        reply = send_grpc(server, inputs_of(number), headers)
        if reply.error:
            raise LoadError(reply.error)
        on_answer()
        return reply, time.perf_counter() - began

    before = step_seconds(server)
    began = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as clients:
        answers = list(clients.map(send, range(num_requests)))
    elapsed_s = time.perf_counter() - began
    spent = {step: seconds - before[step] for step, seconds in step_seconds(server).items()}
    return _row(answers, is_guided, concurrency, elapsed_s, spent)


def step_seconds(server: Server) -> dict[str, float]:
    """Seconds that answered requests have spent so far in each step, their waits in its queue included."""
    with InferenceServerClient(server.grpc_url) as client:
        models = {step: client.get_inference_statistics(step, as_json=True)["model_stats"][0] for step in STEPS}
    return {step: int(model["inference_stats"]["success"].get("ns", 0)) / 1e9 for step, model in models.items()}


def _row(
    answers: list[tuple[Reply, float]], is_guided: bool, concurrency: int, elapsed_s: float, spent: Mapping[str, float]
) -> LoadMeasurement:
    num_tokens = sum(reply.first("num_output_tokens") for reply, _ in answers)
    return LoadMeasurement(
        is_guided,
        concurrency,
        len(answers),
        round(num_tokens / len(answers), 1),
        round(num_tokens / elapsed_s, 1),
        *_percentiles([reply.first("time_to_first_token_us") / 1e3 for reply, _ in answers]),
        *_percentiles([reply.first("queue_delay_us") for reply, _ in answers]),
        *_percentiles([seconds * 1e3 for _, seconds in answers]),
        round((spent["preprocess"] + spent["postprocess"]) / spent["ensemble"], 5),
    )


def _percentiles(values: list[Any]) -> tuple[float, float | None, float]:
    """The median, the 99th percentile and the maximum."""
    ordered = sorted(values)
    p99 = round(ordered[int(0.99 * len(ordered))], 1) if len(ordered) >= 100 else None
    return round(statistics.median(ordered), 1), p99, round(ordered[-1], 1)
