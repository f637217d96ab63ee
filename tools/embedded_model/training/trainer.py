"""Trains the model: minutes on a GPU, days on a CPU.

The loss on prompt tokens has a small weight: with it the model learns to copy repeated text earlier than from the
answers alone.
"""

from __future__ import annotations

import hashlib
import math
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from embedded_model.training.batches import BATCH_SIZES, Batch, BatchSizes, generate_steps

PEAK_LEARNING_RATE = 2e-3
WARMUP_FRACTION = 0.03
WEIGHT_DECAY = 0.05
MAX_GRAD_NORM = 1.0
INITIALIZER_RANGE = 0.04
_CPU_ROWS = 16  # per micro-batch, to save memory

_KIBIBYTE = 1024


class Progress(NamedTuple):
    """The state of a training run; `peak_memory_bytes` is the GPU's if there is one."""

    step: int
    loss: float
    seconds: float
    num_tokens: int
    peak_memory_bytes: int


class Trainer:
    """Model, optimizer and position in the data.

    Equal arguments give equal data, and on the same hardware and torch version equal weights.
    """

    def __init__(self, config: dict[str, Any], seed: int, num_steps: int, sizes: BatchSizes = BATCH_SIZES) -> None:
        self.seed, self.num_steps, self._sizes = seed, num_steps, sizes
        self.step, self.num_tokens, self.data_sha256, self.first_data_sha256 = 0, 0, "", ""
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        _use_deterministic_kernels()
        torch.manual_seed(seed)
        self._model = Qwen3ForCausalLM(Qwen3Config(**config | {"initializer_range": INITIALIZER_RANGE}))
        self._model = self._model.to(self._device).train()
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(self._model), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), fused=True
        )
        self._loss_function = torch.compile(_loss, dynamic=False) if self._device.type == "cuda" else _loss
        self._loss = torch.zeros(())
        self._earlier_seconds, self._timing_start_step = 0.0, -1
        self._start_s = self._timing_start_s = time.monotonic()

    def run(self, tokenizer_path: Path) -> Iterator[int]:
        """Train, and yield the number of finished steps after each one. Training stops when the iteration does."""
        self._start_s, self._timing_start_step = time.monotonic(), -1
        for batches in generate_steps(tokenizer_path, self.seed, range(self.step, self.num_steps), self._sizes):
            self._train_step(batches)
            if self._timing_start_step < 0:
                self.progress()
                self._timing_start_step, self._timing_start_s = self.step, time.monotonic()
            yield self.step

    def progress(self) -> Progress:
        """The current progress. Waits for the GPU."""
        loss = float(self._loss)
        seconds = self._earlier_seconds + time.monotonic() - self._start_s
        return Progress(self.step, loss, seconds, self.num_tokens, _peak_memory_bytes())

    def seconds_left(self) -> float:
        """Estimated from this run's steps without the first one, which compiles kernels and waits for batches."""
        timed = self.step - self._timing_start_step
        if timed <= 0:
            return (time.monotonic() - self._start_s) * (self.num_steps - self.step)
        return (time.monotonic() - self._timing_start_s) / timed * (self.num_steps - self.step)

    def weights(self) -> dict[str, torch.Tensor]:
        """Name → bfloat16 tensor on the CPU, without the tied output layer."""
        return {
            name: tensor.detach().to("cpu", torch.bfloat16)
            for name, tensor in self._model.state_dict().items()
            if name != "lm_head.weight"
        }

    def state(self) -> dict[str, Any]:
        """Everything that `resume` needs to reach the same weights as an uninterrupted run."""
        return {
            "seed": self.seed,
            "num_steps": self.num_steps,
            "step": self.step,
            "num_tokens": self.num_tokens,
            "first_data_sha256": self.first_data_sha256,
            "data_sha256": self.data_sha256,
            "seconds": self.progress().seconds,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a `state`.

        Raises:
            ValueError: the state has another seed or number of steps.
        """
        if (state["seed"], state["num_steps"]) != (self.seed, self.num_steps):
            raise ValueError(f"the state was saved with --seed {state['seed']} --steps {state['num_steps']}")
        self.step, self.num_tokens = state["step"], state["num_tokens"]
        self.first_data_sha256, self.data_sha256 = state["first_data_sha256"], state["data_sha256"]
        self._earlier_seconds = state["seconds"]
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _train_step(self, batches: list[Batch]) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * learning_rate_scale(self.step, self.num_steps)
        losses = [self._accumulate_gradient(batch, len(batches)) for batch in batches]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), MAX_GRAD_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._loss = torch.stack(losses).mean()
        self.step += 1
        self.num_tokens += sum(batch.ids.size for batch in batches)
        self.data_sha256 = next_digest(self.data_sha256, batches)
        self.first_data_sha256 = self.first_data_sha256 or self.data_sha256

    def _accumulate_gradient(self, batch: Batch, num_batches: int) -> torch.Tensor:
        """Add the batch's share of the step's gradient; returns the batch's loss."""
        total = torch.tensor(batch.weights.sum(), device=self._device)
        num_rows = _CPU_ROWS if self._device.type == "cpu" else len(batch.ids)
        loss = torch.zeros((), device=self._device)
        for first in range(0, len(batch.ids), num_rows):
            ids, weights = (
                torch.from_numpy(part[first : first + num_rows]).to(self._device, non_blocking=True) for part in batch
            )
            with torch.autocast(self._device.type, torch.bfloat16):
                part = self._loss_function(self._model, ids, weights, total)
            torch.autograd.backward(part / num_batches)
            loss += part.detach()
        return loss


def next_digest(digest: str, batches: list[Batch]) -> str:
    """The running SHA-256 of the data: of these batches' token ids after the digest of all earlier ones."""
    sha256 = hashlib.sha256(digest.encode())
    for batch in batches:
        sha256.update(batch.ids.tobytes())
    return sha256.hexdigest()


def _use_deterministic_kernels() -> None:
    """Make the GPU sum in the same order every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("high")


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE


def _loss(model: Any, ids: torch.Tensor, weights: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the next tokens, each times the weight of its target token, divided by `total`."""
    ids = ids.long()
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum() / total


def _parameter_groups(model: Any) -> list[dict[str, Any]]:
    """Weight decay applies to matrices only, not to norms."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def learning_rate_scale(step: int, num_steps: int) -> float:
    """The fraction of the peak learning rate at `step`: a linear warm-up, then a cosine decay to 0."""
    warmup_steps = max(1, int(num_steps * WARMUP_FRACTION))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, num_steps - warmup_steps)))
