"""The warm-up: every task and schema at several prompt lengths, cold and warm."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from llm_policy.release.release import Release
from llm_policy.text.tokenizer import Tokenizer
from llmstack.client.ensemble_client import Reply, send_infer
from llmstack.release.checks.target import Target
from llmstack.release.coverage import MAX_TOKENS, CoverageItem, coverage_items

NUM_WARM = 2  # repetitions after the cold request
_WORDS = "Order 4711 was placed by Ada Lovelace on 3 May and shipped to Leeds in two parcels. "
_COMPILE_SUM = re.compile(r"^llm_guide_compile_ms_(sum|count)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class WarmUpMeasurement(NamedTuple):
    """One task or schema at one prompt length: a row of warmup.json. `fault` is empty when every answer was right."""

    what: str
    prompt_tokens: int
    cold_ms: float
    warm_ms: float  # median
    queue_delay_us_max: int
    fault: str


class PromptError(ValueError):
    """The release's tokenizer can't produce a text of the requested length."""


def warm_up(target: Target, lengths: list[int], on_row: Callable[[WarmUpMeasurement], None]) -> list[WarmUpMeasurement]:
    """Send every task and schema at every prompt length, one request at a time; `on_row` receives each finished row.

    Raises:
        PromptError: the tokenizer can't produce a text of one of the lengths.
    """
    tokenizer = Tokenizer.load(target.release.tokenizer_dir)
    prompts = {length: prompt_of(tokenizer, length) for length in lengths}
    rows = []
    for item in coverage_items(target.release):
        for length, prompt in prompts.items():
            row = _measure(target, item, length, prompt)
            on_row(row)
            rows.append(row)
    return rows


def compile_times(metrics: str) -> dict[str, float]:
    """The number of compiled guides and their total compile time, from the policy's metrics."""
    totals = {"sum": 0.0, "count": 0.0}
    for name, value in _COMPILE_SUM.findall(metrics):
        totals[name] += float(value)
    return {"num_guides_compiled": int(totals["count"]), "guide_compile_ms_total": round(totals["sum"], 3)}


def prompt_of(tokenizer: Tokenizer, num_tokens: int) -> str:
    """A text of exactly `num_tokens` tokens.

    Raises:
        PromptError: the tokenizer can't produce one from our words.
    """
    text = _WORDS
    while len(tokenizer.encode_text(text)) < num_tokens:
        text += text
    low, high = 0, len(text)
    while low < high:  # binary search for the longest prefix within `num_tokens`
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(tokenizer.encode_text(text[:middle])) <= num_tokens else (low, middle - 1)
    text = text[:low]
    while (missing := num_tokens - len(tokenizer.encode_text(text))) > 0:
        text += "\n." * missing if missing > 1 else "\n"
        if len(tokenizer.encode_text(text)) > num_tokens:
            raise PromptError(f"no text of {num_tokens} tokens was found")
    return text


def _measure(target: Target, item: CoverageItem, length: int, prompt: str) -> WarmUpMeasurement:
    inputs = {**item.inputs, "text_input": prompt, "max_tokens": MAX_TOKENS}
    replies, times_ms = [], []
    for _ in range(1 + NUM_WARM):
        began = time.perf_counter()
        replies.append(send_infer(target.server, inputs, target.headers))
        times_ms.append((time.perf_counter() - began) * 1e3)
    faults = [fault for reply in replies if (fault := _find_fault(target.release, item, length, reply))]
    return WarmUpMeasurement(
        item.what,
        length,
        round(times_ms[0], 1),
        round(statistics.median(times_ms[1:]), 1),
        max(reply.first("queue_delay_us") or 0 for reply in replies),
        faults[0] if faults else "",
    )


def _find_fault(release: Release, item: CoverageItem, length: int, reply: Reply) -> str:
    if reply.error:
        return reply.error
    expected: dict[str, Any] = {
        "engine_hash": release.manifest.engine.hash,
        "num_input_tokens": length,
        "resolved_schema_id": item.schema_id or "",
    }
    for name, value in expected.items():
        if reply.first(name) != value:
            return f"{name} is {reply.first(name)!r}, expected {value!r}"
    return "" if reply.first("num_output_tokens") else "the engine returned no token"
