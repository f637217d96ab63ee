"""The batches of training, made by other processes: what a step sees depends on the seed and its number alone."""

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

from embedded_model.example import Example
from embedded_model.examples import make_example
from embedded_model.words import Words

PROMPT_LOSS_SHARE = 0.1
_STEPS_AHEAD = 4  # that each process may be before the training: so much waits in memory


class Batch(NamedTuple):
    """Rows of one task: token ids [rows, tokens] and, of equal shape, what each position's loss weighs."""

    ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


class Rows(NamedTuple):
    """How many examples a batch takes, and the tokens that each may have."""

    num_rows: int
    max_tokens: int


StepRows = Mapping[str, tuple[Rows, ...]]

# The batches of a task by length, shortest first, with as many rows as that length is common.
STEP_ROWS: StepRows = {
    "generate_json": (Rows(128, 240), Rows(64, 400)),
    "rank_candidates": (Rows(160, 208),),
    "judge": (Rows(160, 176),),
}


def step_batches(tokenizer_path: Path, seed: int, steps: range, rows: StepRows) -> Iterator[list[Batch]]:
    """The batches of each step, made by as many processes as there are cores to spare.

    Raises:
        BrokenProcessPool: one of them died.
    """
    num_workers = max(1, (os.cpu_count() or 2) - 2)
    context = multiprocessing.get_context("spawn")
    waiting: deque[Future[list[Batch]]] = deque()
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (str(tokenizer_path),))
    try:
        for step in steps:
            waiting.append(pool.submit(make_step, seed, step, rows))
            if len(waiting) > num_workers * _STEPS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_tokenizer: Tokenizer
_pieces: list[str]


def _start_worker(tokenizer_path: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training's, which stops its workers
    use_tokenizer(tokenizer_path)


def use_tokenizer(path: str) -> None:
    """Make batches with this tokenizer.json, in this process."""
    global _tokenizer, _pieces
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = Tokenizer.from_file(path)
    _pieces = sorted(text for text in _tokenizer.get_vocab() if text.isascii() and text.isalpha() and text.islower())


def make_step(seed: int, step: int, rows: StepRows = STEP_ROWS) -> list[Batch]:
    """The batches of one step, task by task."""
    return [
        batch
        for task, sizes in rows.items()
        for batch in _make_batches(task, sizes, random.Random(f"train {task} {seed} {step}"))  # noqa: S311
    ]


def _make_batches(task: str, sizes: tuple[Rows, ...], generator: random.Random) -> list[Batch]:
    """Examples until every batch is full: each goes to the first batch that it fits in and that has room."""
    words = Words(generator, is_held_out=False, pieces=_pieces)
    batches = [Batch(np.zeros(size, np.int32), np.zeros(size, np.float32)) for size in sizes]
    num_filled = [0] * len(sizes)
    while any(filled < size.num_rows for filled, size in zip(num_filled, sizes, strict=True)):
        prompt, answer = encode_example(_tokenizer, make_example(task, words))
        end = len(prompt) + len(answer)
        number = next((n for n, size in enumerate(sizes) if end <= size.max_tokens), None)
        if number is None or num_filled[number] == sizes[number].num_rows:
            continue
        row, num_filled[number] = num_filled[number], num_filled[number] + 1
        batches[number].ids[row, :end] = prompt + answer
        batches[number].weights[row, : len(prompt)] = PROMPT_LOSS_SHARE
        batches[number].weights[row, len(prompt) : end] = 1.0
    return batches


def encode_example(tokenizer: Tokenizer, example: Example) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, as the chat template renders it with thinking off, and of the answer with its end."""
    prompt = example.user
    if example.is_chat:
        turns = [f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in example.turns()]
        prompt = "".join(turns) + "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    return tokenizer.encode(prompt).ids, tokenizer.encode(example.answer_text + "<|im_end|>").ids
