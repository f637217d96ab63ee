"""Training of the embedded model: a few minutes on a GPU, a day or so on a CPU.

Only the answer counts for the most part; a small share of the loss on the prompt makes the model learn early what
repeats. Batches are made by other processes, in an order that depends on nothing but the seed.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from llm_policy.manifest import TASKS
from llmstack.embedded.examples import Example, make_example
from llmstack.embedded.words import Words

PROMPT_LOSS_SHARE = 0.1
PEAK_LEARNING_RATE = 2e-3
WARM_UP_SHARE = 0.03
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0
INITIALIZER_RANGE = 0.04

Ids = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """Rows of one task: token ids [rows, tokens] and, of equal shape, what each position's loss weighs."""

    ids: Ids
    weights: npt.NDArray[np.float32]


class Rows(NamedTuple):
    """How many examples of a task a step takes, and the tokens that each may have."""

    num_rows: int
    max_tokens: int


STEP_ROWS = {
    "generate_json": Rows(192, 320),
    "rank_candidates": Rows(160, 208),
    "judge": Rows(160, 192),
}


class Progress(NamedTuple):
    """Where training stands."""

    step: int
    loss: float
    seconds: float
    num_tokens: int


def train(
    config: dict[str, Any], tokenizer_path: Path, seed: int, num_steps: int, report: Callable[[Progress], None]
) -> dict[str, Any]:
    """The trained weights, name → bfloat16 tensor on the CPU, the tied output layer left out.

    `report` is told about every step. Runs on a GPU where there is one.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    model = Qwen3ForCausalLM(Qwen3Config(**config | {"initializer_range": INITIALIZER_RANGE}))
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(_parameter_groups(model), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), fused=True)
    loss_of = torch.compile(_loss, dynamic=False) if device.type == "cuda" else _loss
    began, num_tokens = time.monotonic(), 0
    for step, batches in enumerate(_step_batches(tokenizer_path, seed, num_steps)):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * _rate(step, num_steps)
        losses = []
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16):
                loss = loss_of(model, *(torch.from_numpy(part).to(device, non_blocking=True) for part in batch))
            torch.autograd.backward(loss / len(batches))
            losses.append(loss.detach())
            num_tokens += batch.ids.size
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 20 == 19 or step == num_steps - 1:  # reading the loss waits for the GPU
            mean = float(torch.stack(losses).mean())
            report(Progress(step + 1, mean, time.monotonic() - began, num_tokens))
    return {
        name: tensor.detach().to("cpu", torch.bfloat16)
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }


def _loss(model: Any, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next tokens, each with the weight of the token that it is."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    return (losses * wanted).sum() / wanted.sum()


def _parameter_groups(model: Any) -> list[dict[str, Any]]:
    """Matrices decay, norms don't."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def _rate(step: int, num_steps: int) -> float:
    """The share of the peak learning rate at `step`: a warm-up, then a cosine down to nothing."""
    warm_up = max(1, int(num_steps * WARM_UP_SHARE))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, num_steps - warm_up)))


def _step_batches(tokenizer_path: Path, seed: int, num_steps: int) -> Iterator[list[Batch]]:
    """The batches of each step, one a task, made by as many processes as there are cores to spare."""
    jobs = ((seed, step) for step in range(num_steps))
    context = multiprocessing.get_context("spawn")
    num_workers = max(1, (os.cpu_count() or 2) - 2)
    with context.Pool(num_workers, _start_worker, (str(tokenizer_path),)) as pool:
        yield from pool.imap(_make_step, jobs, chunksize=4)


_tokenizer: Tokenizer
_pieces: list[str]


def _start_worker(tokenizer_path: str) -> None:
    global _tokenizer, _pieces
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = Tokenizer.from_file(tokenizer_path)
    _pieces = sorted(text for text in _tokenizer.get_vocab() if text.isascii() and text.isalpha() and text.islower())


def _make_step(job: tuple[int, int]) -> list[Batch]:
    seed, step = job
    return [_make_batch(task, random.Random(f"train {task} {seed} {step}")) for task in TASKS]  # noqa: S311


def _make_batch(task: str, generator: random.Random) -> Batch:
    num_rows, max_tokens = STEP_ROWS[task]
    words = Words(generator, is_held_out=False, pieces=_pieces)
    ids = np.zeros((num_rows, max_tokens), np.int64)
    weights = np.zeros((num_rows, max_tokens), np.float32)
    row = 0
    while row < num_rows:
        prompt, answer = encode_example(_tokenizer, make_example(task, words))
        if len(prompt) + len(answer) > max_tokens:
            continue
        end = len(prompt) + len(answer)
        ids[row, :end] = prompt + answer
        weights[row, : len(prompt)] = PROMPT_LOSS_SHARE
        weights[row, len(prompt) : end] = 1.0
        row += 1
    return Batch(ids, weights)


def encode_example(tokenizer: Tokenizer, example: Example) -> tuple[list[int], list[int]]:
    """Token ids of the prompt, as the chat template renders it with thinking off, and of the answer with its end."""
    prompt = (
        f"<|im_start|>system\n{example.system}<|im_end|>\n<|im_start|>user\n{example.user}<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    return tokenizer.encode(prompt).ids, tokenizer.encode(example.answer_text + "<|im_end|>").ids
