"""The portable engine by itself: how fast it decodes, without a server around it."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from llmstack.cli.terminal import fail, print_json
from portable_engine.batcher import InFlightBatcher
from portable_engine.loader import load_model
from portable_engine.sequence import GenerationRequest, Sequence

_NUM_OPERATORS = 20
_FIRST_PLAIN_TOKEN, _NUM_PLAIN_TOKENS = 300, 3_000


class EngineMeasurement(NamedTuple):
    """Medians over the rounds. The first token's time is that of the first sequence and of the last of its batch.

    `decode_tokens_per_s` is None where nothing was left to decode once all prompts were in.
    """

    concurrency: int
    decode_tokens_per_s: float | None
    tokens_per_s: float
    first_ttft_ms: float
    last_ttft_ms: float


def measure_visibly(
    release: Path, concurrencies: list[int], prompt_tokens: int, completion_tokens: int, rounds: int, as_json: bool
) -> None:
    """Measure with a progress bar and print the rows."""
    console = Console(stderr=as_json)
    model = _load(release)
    cells = [concurrency for _ in range(rounds + 1) for concurrency in concurrencies]
    measured = [
        (number, run(model, concurrency, prompt_tokens, completion_tokens))
        for number, concurrency in enumerate(track(cells, "decoding", console=console, transient=True))
    ]
    warm = [row for number, row in measured if number >= len(concurrencies)]  # the first round warms up
    rows = [_medians([row for row in warm if row.concurrency == concurrency]) for concurrency in concurrencies]
    if as_json:
        print_json([row._asdict() for row in rows])
    else:
        console.print(_table(rows, model, prompt_tokens, completion_tokens))


def print_profile(release: Path, concurrency: int, prompt_tokens: int, completion_tokens: int) -> None:
    """Decode under torch's profiler and print the operators that take longest, by their own time."""
    from torch.profiler import ProfilerActivity, profile

    model = _load(release)
    run(model, concurrency, prompt_tokens, completion_tokens)  # warms up
    on_gpu = model.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        run(model, concurrency, prompt_tokens, completion_tokens)
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=_NUM_OPERATORS, max_name_column_width=40))


def _load(release: Path) -> Any:
    try:
        return load_model(release / "engine")
    except ValueError as error:
        fail(error, "choose another device, data type or number of threads, or leave the choice to the engine")
    except OSError as error:
        fail(f"no engine to load: {str(error).splitlines()[0]}", "name a release with --release")


def run(model: Any, concurrency: int, prompt_tokens: int, completion_tokens: int) -> EngineMeasurement:
    """Decode `concurrency` sequences that arrive together, to their last token."""
    batcher = InFlightBatcher(model, concurrency, lambda logits, matchers: None)
    began_ns = time.monotonic_ns()
    sequences = [Sequence(_request(row, prompt_tokens, completion_tokens), began_ns) for row in range(concurrency)]
    for sequence in sequences:
        batcher.add(sequence)
    while not all(sequence.completion_token_ids for sequence in sequences):
        batcher.step()
    num_left = sum(completion_tokens - len(sequence.completion_token_ids) for sequence in sequences)
    while not batcher.is_idle:
        batcher.step()
    first_ns = [sequence.first_token_time_ns for sequence in sequences]
    end_ns = max(sequence.last_token_time_ns for sequence in sequences)
    return EngineMeasurement(
        concurrency,
        num_left / ((end_ns - max(first_ns)) / 1e9) if num_left else None,
        concurrency * completion_tokens / ((end_ns - began_ns) / 1e9),
        (min(first_ns) - began_ns) / 1e6,
        (max(first_ns) - began_ns) / 1e6,
    )


def _request(row: int, prompt_tokens: int, completion_tokens: int) -> GenerationRequest:
    prompt = [_FIRST_PLAIN_TOKEN + (7 * row + 13 * position) % _NUM_PLAIN_TOKENS for position in range(prompt_tokens)]
    return GenerationRequest(prompt, completion_tokens)


def _medians(rows: list[EngineMeasurement]) -> EngineMeasurement:
    _, *columns = zip(*rows, strict=True)
    medians: list[Any] = [None if None in each else round(statistics.median(each), 1) for each in columns]
    return EngineMeasurement(rows[0].concurrency, *medians)


def _table(rows: list[EngineMeasurement], model: Any, prompt_tokens: int, completion_tokens: int) -> Table:
    threads = f", {torch.get_num_threads()} thread(s)" if model.device.type == "cpu" else ""
    table = Table(
        title=f"Portable engine on {model.device.type}{threads}: {prompt_tokens} + {completion_tokens} tokens",
        caption="decode: once all prompts are in; whole: from arrival to the last token",
    )
    for heading in ("sequences", "decode tok/s", "whole tok/s", "first TTFT ms", "last TTFT ms"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(str(row.concurrency), *("–" if value is None else f"{value:.0f}" for value in row[1:]))
    return table
