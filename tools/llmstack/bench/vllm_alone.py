"""Measures vLLM alone, by the plan that the stack was measured by.

    python3 -m llmstack.bench.vllm_alone plan.json     # in the engine's Python, which imports vllm and engine_process

vLLM gets the arguments of the engine process for the engine and for each request, but is called directly: without
server, queue, Triton and policy. The plan has the release, the engine's options, the guide and the rows with their
prompts' token ids; `llmstack bench vllm` writes it. Prints one JSON line with versions and the seconds of the start,
then one for each row.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmstack.bench.token_times import TokenTimes, first_token_ms_p50, inter_token_ms

_PACKAGES = ("vllm", "torch", "transformers", "numpy", "xgrammar", "llguidance", "compressed-tensors")


async def measure(plan: dict[str, Any]) -> None:
    """Start vLLM and print a line for each row."""
    began = time.perf_counter()
    async with _engine(plan) as engine:
        versions = {name: _version(name) for name in _PACKAGES}
        print(json.dumps({"start_s": round(time.perf_counter() - began, 1), "versions": versions}), flush=True)
        for row in plan["warm_ups"]:
            await _run(engine, plan, row)
        for row in plan["rows"]:
            print(json.dumps(await _run(engine, plan, row)), flush=True)


@asynccontextmanager
async def _engine(plan: dict[str, Any]) -> AsyncIterator[Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from engine_process.engine import EngineSettings
    from engine_process.engines.vllm_options import engine_arguments

    settings = EngineSettings(Path(plan["release"]), plan["max_batch_size"], plan["max_mask_ms"], plan["options"])
    arguments = engine_arguments(settings, plan["guide"]["backend"], AsyncEngineArgs)
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    try:
        yield engine
    finally:
        engine.shutdown()


async def _run(engine: Any, plan: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """All requests of a row in a closed loop: each client takes the next prompt."""
    pending = list(enumerate(row["prompts"]))
    parameters = _sampling_parameters(plan, is_guided=row["guided"])
    answers: list[TokenTimes] = []
    outside_s: list[float] = []

    async def work() -> None:
        while pending:
            number, prompt = pending.pop(0)
            times, first_outside_s = await _complete(engine, f"{row['name']}-{number}", prompt, parameters.clone())
            answers.append(times)
            outside_s.append(first_outside_s)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(row["concurrency"])))
    elapsed_s = time.perf_counter() - began
    num_tokens = sum(answer.num_tokens for answer in answers)
    inter_token_p50, inter_token_p99 = inter_token_ms(answers)
    return {
        "guided": row["guided"],
        "concurrency": row["concurrency"],
        "num_requests": len(answers),
        "completion_tokens": round(num_tokens / len(answers), 1),
        "tokens_per_s": round(num_tokens / elapsed_s, 1),
        "ttft_ms_p50": round(first_token_ms_p50(answers), 2),
        "ttft_ms_max": round(1e3 * max(answer.first_s or 0.0 for answer in answers), 1),
        "first_token_outside_engine_ms_p50": round(1e3 * statistics.median(outside_s), 2),
        "inter_token_ms_p50": round(inter_token_p50, 3),
        "inter_token_ms_p99": round(inter_token_p99, 3),
        "latency_ms_p50": round(1e3 * statistics.median(answer.duration_s for answer in answers), 1),
        "latency_ms_max": round(1e3 * max(answer.duration_s for answer in answers), 1),
    }


async def _complete(engine: Any, name: str, prompt: list[int], parameters: Any) -> tuple[TokenTimes, float]:
    """One answer; also the seconds from vLLM's own time of its first token until it is here."""
    times, first_outside_s = TokenTimes(), 0.0
    async for output in engine.generate({"prompt_token_ids": prompt}, parameters, name):
        if not times.num_pieces:
            first_outside_s = time.monotonic() - output.metrics.first_token_ts
        times.add(len(output.outputs[0].token_ids))
    return times, first_outside_s


def _sampling_parameters(plan: dict[str, Any], *, is_guided: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    from engine_process.engines.vllm_sampling import guide_arguments, sampling_arguments
    from engine_process.messages import Generate, Guide

    guide = Guide(**plan["guide"]) if is_guided else None
    request = Generate(0, b"", plan["max_tokens"], end_id=plan["end_id"], guide=guide)
    return SamplingParams(
        **sampling_arguments(request),
        output_kind=RequestOutputKind.DELTA,
        structured_outputs=StructuredOutputsParams(**guide_arguments(guide)) if guide else None,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    from engine_process.engines.vllm_options import set_environment

    set_environment()
    asyncio.run(measure(json.loads(Path(sys.argv[1]).read_bytes())))
