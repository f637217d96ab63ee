"""A series of load measurements of one release: guided and unguided requests at several concurrencies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any, NamedTuple

from tritonclient.grpc import InferenceServerClient

from llm_policy.release.release import Release
from llm_policy.text.tokenizer import Tokenizer
from llmstack.bench.load import LoadMeasurement, Workload, measure_load
from llmstack.bench.machine import describe_machine
from llmstack.bench.prompt import build_prompt
from llmstack.client.ensemble_client import Inputs, release_headers
from llmstack.server.process import TritonServer

_NUM_WARM_UPS = 4


class LoadPlan(NamedTuple):
    """The series: `num_requests` requests for each kind of request and each concurrency. Token numbers are limits."""

    concurrencies: list[int]
    prompt_tokens: int
    completion_tokens: int
    num_requests: int
    schema_id: str
    guided: tuple[bool, ...] = (False, True)

    @property
    def total_requests(self) -> int:
        """Requests of all measurements, without warm-ups."""
        return len(self.guided) * sum(self.num_requests_at(concurrency) for concurrency in self.concurrencies)

    def num_requests_at(self, concurrency: int) -> int:
        """At least one request per client."""
        return max(self.num_requests, concurrency)


def measure_plan(
    server: TritonServer,
    release: Release,
    plan: LoadPlan,
    on_start: Callable[[str], None],
    on_reply: Callable[[], None],
) -> Iterator[LoadMeasurement]:
    """Warm up, then measure the plan's workloads one by one; `on_start` receives a description of each.

    Raises:
        LoadError: a request got an error.
    """
    headers = release_headers(release)
    text = build_prompt(Tokenizer.load(release.tokenizer_dir), plan.prompt_tokens).text
    for is_guided in plan.guided:
        measure_load(server, headers, Workload(_inputs(text, is_guided, plan), is_guided, _NUM_WARM_UPS, _NUM_WARM_UPS))
    for is_guided in plan.guided:
        for concurrency in plan.concurrencies:
            on_start(f"{'guided' if is_guided else 'unguided'}, concurrency {concurrency}")
            inputs_of, num_requests = _inputs(text, is_guided, plan), plan.num_requests_at(concurrency)
            yield measure_load(server, headers, Workload(inputs_of, is_guided, concurrency, num_requests), on_reply)


def describe_run(server: TritonServer, release: Release, plan: LoadPlan) -> dict[str, Any]:
    """Time, machine, release and sizes of a series, to record beside its rows."""
    engine, limits = release.manifest.engine, release.manifest.guidance.limits
    with InferenceServerClient(server.grpc_url) as client:
        triton = client.get_server_metadata(as_json=True)["version"]
    return {
        "measured_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {**describe_machine(), "triton": triton},
        "release": {
            "name": release.directory.name,
            "model": engine.model,
            "engine_hash": engine.hash,
            "max_batch_size": engine.max_batch_size,
            "max_counted_length": limits.max_counted_length,
        },
        "sizes": {"prompt_tokens": plan.prompt_tokens, "completion_tokens": plan.completion_tokens},
        "schema_id": plan.schema_id,
    }


def _inputs(text: str, is_guided: bool, plan: LoadPlan) -> Callable[[int], Inputs]:
    """Greedy requests whose prompts differ from their first token on."""

    def inputs_of(number: int) -> Inputs:
        inputs = {"text_input": f"{number}. {text}", "max_tokens": plan.completion_tokens, "temperature": 0.0}
        return {**inputs, "schema_id": plan.schema_id} if is_guided else inputs

    return inputs_of
