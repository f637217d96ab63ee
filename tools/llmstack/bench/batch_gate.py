"""Whether a release keeps its queue delay with a full batch, which promotion requires of batch sizes above 4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llm_policy.release.release import Release
from llm_policy.text.tokenizer import Tokenizer
from llmstack.bench.load import LoadMeasurement, Workload, measure_load
from llmstack.bench.prompt import build_prompt
from llmstack.client.ensemble_client import Inputs, release_headers
from llmstack.server.process import TritonServer


class BatchGateResult(NamedTuple):
    """Measurements with one request per slot, and with one request more; delays are 99th percentiles."""

    max_batch_size: int
    limit_us: int
    full_batch: LoadMeasurement
    one_more: LoadMeasurement

    @property
    def delay_us(self) -> float:
        """Queue delay with one request per slot."""
        return self.full_batch.queue_delay_us_p99 or 0.0

    @property
    def one_more_delay_us(self) -> float:
        """Queue delay with one request more than slots."""
        return self.one_more.queue_delay_us_p99 or 0.0

    @property
    def passed(self) -> bool:
        """Whether the delay of a full batch stays within the manifest's limit."""
        return self.delay_us <= self.limit_us

    def record(self, engine: str) -> dict[str, Any]:
        """The content of the release's bench_gate.json."""
        return {
            "max_batch_size": self.max_batch_size,
            "max_queue_delay_us": self.limit_us,
            "engine": engine,
            **self.full_batch._asdict(),
            "one_more": self.one_more._asdict(),
        }


def measure_batch_gate(
    server: TritonServer,
    release: Release,
    prompt_tokens: int,
    completion_tokens: int,
    num_requests: int,
    on_reply: Callable[[], None],
) -> BatchGateResult:
    """Warm up, then send `num_requests` requests at each of two concurrencies: the batch size, and one more.

    `num_requests` is at least 100, so that there are 99th percentiles.

    Raises:
        LoadError: a request got an error.
    """
    headers = release_headers(release)
    text = build_prompt(Tokenizer.load(release.tokenizer_dir), prompt_tokens).text
    size = release.manifest.engine.max_batch_size

    def inputs_of(number: int) -> Inputs:
        """Prompts differ from their first token on."""
        return {"text_input": f"{number}. {text}", "max_tokens": completion_tokens, "temperature": 0.0}

    measure_load(server, headers, Workload(inputs_of, False, size, size))
    full_batch, one_more = (
        measure_load(server, headers, Workload(inputs_of, False, concurrency, num_requests), on_reply)
        for concurrency in (size, size + 1)
    )
    return BatchGateResult(size, release.manifest.thresholds.max_queue_delay_us, full_batch, one_more)
