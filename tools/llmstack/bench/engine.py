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

from llmstack.terminal import print_json
from portable_engine.batcher import InFlightBatcher
from portable_engine.loader import load_model
from portable_engine.sequence import GenerationRequest, Sequence

_FIRST_PLAIN_TOKEN, _NUM_PLAIN_TOKENS = 300, 3_000


class Row(NamedTuple):
    """Medians over the rounds. The first token's time is that of the first sequence and of the last of its batch."""

    concurrency: int
    decode_tokens_per_s: float
    tokens_per_s: float
    first_ttft_ms: float
    last_ttft_ms: float


def measure_visibly(
    release: Path, concurrencies: list[int], prompt_tokens: int, completion_tokens: int, rounds: int, as_json: bool
) -> None:
    """Measure with a progress bar and print the rows."""
    console = Console(stderr=as_json)
    model = load_model(release / "engine")
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


def run(model: Any, concurrency: int, prompt_tokens: int, completion_tokens: int) -> Row:
    """Decode `concurrency` sequences that arrive together, to their last token."""
    batcher = InFlightBatcher(model, concurrency, lambda logits, matchers: None)
    began_ns = time.monotonic_ns()
    sequences = [Sequence(_request(row, prompt_tokens, completion_tokens), began_ns) for row in range(concurrency)]
    for sequence in sequences:
        batcher.add(sequence)
    while not batcher.is_idle:
        batcher.step()
    first_ns = [sequence.first_token_time_ns for sequence in sequences]
    end_ns = max(sequence.last_token_time_ns for sequence in sequences)
    num_decoded = sum(_num_after(sequence, max(first_ns)) for sequence in sequences)
    return Row(
        concurrency,
        num_decoded / ((end_ns - max(first_ns)) / 1e9),
        concurrency * completion_tokens / ((end_ns - began_ns) / 1e9),
        (min(first_ns) - began_ns) / 1e6,
        (max(first_ns) - began_ns) / 1e6,
    )


def _request(row: int, prompt_tokens: int, completion_tokens: int) -> GenerationRequest:
    prompt = [_FIRST_PLAIN_TOKEN + (7 * row + 13 * position) % _NUM_PLAIN_TOKENS for position in range(prompt_tokens)]
    return GenerationRequest(prompt, completion_tokens)


def _num_after(sequence: Sequence, moment_ns: int) -> int:
    """Tokens decoded after `moment_ns`, at which the whole batch was past its prompts. Steps take equally long."""
    num_steps = len(sequence.completion_token_ids) - 1
    share = (sequence.last_token_time_ns - moment_ns) / (sequence.last_token_time_ns - sequence.first_token_time_ns)
    return round(num_steps * min(1.0, share))


def _medians(rows: list[Row]) -> Row:
    return Row(
        rows[0].concurrency, *(round(statistics.median(column), 1) for column in list(zip(*rows, strict=True))[1:])
    )


def _table(rows: list[Row], model: Any, prompt_tokens: int, completion_tokens: int) -> Table:
    threads = f", {torch.get_num_threads()} thread" if model.device.type == "cpu" else ""
    table = Table(
        title=f"Portable engine on {model.device.type}{threads}: {prompt_tokens} + {completion_tokens} tokens",
        caption="decode: once all prompts are in; whole: from arrival to the last token",
    )
    for heading in ("sequences", "decode tok/s", "whole tok/s", "first TTFT ms", "last TTFT ms"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(str(row.concurrency), *(f"{value:.0f}" for value in row[1:]))
    return table
