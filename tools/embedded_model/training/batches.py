"""Training batches, made by worker processes. The batches of a step depend only on the seed and the step's number."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from embedded_model.examples.example import Example
from embedded_model.examples.generator import generate_example
from embedded_model.examples.value_sampler import ValueSampler

PROMPT_LOSS_WEIGHT = 0.1
_STEPS_AHEAD = 4  # per worker: bounds the memory of finished steps that training hasn't taken yet


class Batch(NamedTuple):
    """Examples of one task: token ids, and the weight of each token's loss. Both have shape [rows, tokens]."""

    ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


class BatchSize(NamedTuple):
    """The number of examples in a batch, and the tokens that each may have."""

    num_rows: int
    max_tokens: int


BatchSizes = Mapping[str, tuple[BatchSize, ...]]

# Per task one batch per range of lengths, shortest first, with as many rows as examples of that length are frequent.
BATCH_SIZES: BatchSizes = {
    "generate_json": (BatchSize(128, 240), BatchSize(64, 400)),
    "rank_candidates": (BatchSize(160, 208),),
    "judge": (BatchSize(160, 176),),
}


def generate_steps(tokenizer_path: Path, seed: int, steps: range, sizes: BatchSizes) -> Iterator[list[Batch]]:
    """The batches of each step, made by one worker process per core, less two.

    Raises:
        BrokenProcessPool: a worker died.
    """
    num_workers = max(1, (os.cpu_count() or 2) - 2)
    context = multiprocessing.get_context("spawn")
    pending: deque[Future[list[Batch]]] = deque()
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (str(tokenizer_path),))
    try:
        for step in steps:
            pending.append(pool.submit(generate_step, seed, step, sizes))
            if len(pending) > num_workers * _STEPS_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_tokenizer: Tokenizer
_pieces: list[str]


def _start_worker(tokenizer_path: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process handles Ctrl-C and stops its workers
    load_tokenizer(tokenizer_path)


def load_tokenizer(path: str) -> None:
    """Set the tokenizer.json with which this process makes batches."""
    global _tokenizer, _pieces
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = Tokenizer.from_file(path)
    _pieces = sorted(text for text in _tokenizer.get_vocab() if text.isascii() and text.isalpha() and text.islower())


def generate_step(seed: int, step: int, sizes: BatchSizes = BATCH_SIZES) -> list[Batch]:
    """The batches of one step, task by task."""
    return [
        batch
        for task, task_sizes in sizes.items()
        for batch in _fill_batches(task, task_sizes, random.Random(f"train {task} {seed} {step}"))  # noqa: S311
    ]


def _fill_batches(task: str, sizes: tuple[BatchSize, ...], rng: random.Random) -> list[Batch]:
    """Generate examples until every batch is full. An example goes to the first batch it fits in, or is dropped."""
    sampler = ValueSampler(rng, is_held_out=False, pieces=_pieces)
    batches = [Batch(np.zeros(size, np.int32), np.zeros(size, np.float32)) for size in sizes]
    num_filled = [0] * len(sizes)
    while any(filled < size.num_rows for filled, size in zip(num_filled, sizes, strict=True)):
        prompt, answer = encode_example(_tokenizer, generate_example(task, sampler))
        end = len(prompt) + len(answer)
        number = next((n for n, size in enumerate(sizes) if end <= size.max_tokens), None)
        if number is None or num_filled[number] == sizes[number].num_rows:
            continue
        row, num_filled[number] = num_filled[number], num_filled[number] + 1
        batches[number].ids[row, :end] = prompt + answer
        batches[number].weights[row, : len(prompt)] = PROMPT_LOSS_WEIGHT
        batches[number].weights[row, len(prompt) : end] = 1.0
    return batches


def encode_example(tokenizer: Tokenizer, example: Example) -> tuple[list[int], list[int]]:
    """(token ids of the prompt in the chat template without thinking, token ids of the answer with its end token)."""
    prompt = example.user
    if example.is_chat:
        messages = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in example.messages()]
        prompt = "".join(messages) + "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    return tokenizer.encode(prompt).ids, tokenizer.encode(example.answer_text + "<|im_end|>").ids
