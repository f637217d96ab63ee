"""Training of the embedded model: minutes on a GPU, days on a CPU.

Only the answer counts for the most part; a small share of the loss on the prompt makes the model learn early what
repeats.
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

from embedded_model.batches import STEP_ROWS, Batch, StepRows, step_batches

PEAK_LEARNING_RATE = 2e-3
WARM_UP_SHARE = 0.03
WEIGHT_DECAY = 0.05
MAX_GRADIENT_NORM = 1.0
INITIALIZER_RANGE = 0.04
_CPU_ROWS = 16  # at a time, so that a step needs little memory

_KIBIBYTE = 1024


class Progress(NamedTuple):
    """Where training stands; `memory_bytes` is the most that it has held, on the GPU where there is one."""

    step: int
    loss: float
    seconds: float
    num_tokens: int
    memory_bytes: int


class Trainer:
    """A model in training. Equal arguments give equal data; on one machine with one torch, equal weights too."""

    def __init__(self, config: dict[str, Any], seed: int, num_steps: int, rows: StepRows = STEP_ROWS) -> None:
        self.seed, self.num_steps, self._rows = seed, num_steps, rows
        self.step, self.num_tokens, self.data_sha256, self.first_data_sha256 = 0, 0, "", ""
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        _compute_alike()
        torch.manual_seed(seed)
        self._model = Qwen3ForCausalLM(Qwen3Config(**config | {"initializer_range": INITIALIZER_RANGE}))
        self._model = self._model.to(self._device).train()
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(self._model), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), fused=True
        )
        self._loss_of = torch.compile(_loss, dynamic=False) if self._device.type == "cuda" else _loss
        self._loss = torch.zeros(())
        self._seconds_before, self._timed_from = 0.0, -1
        self._began = self._timed_since = time.monotonic()

    def run(self, tokenizer_path: Path) -> Iterator[int]:
        """Train; yields the number of steps done after each. Who stops asking stops the training."""
        self._began, self._timed_from = time.monotonic(), -1
        for batches in step_batches(tokenizer_path, self.seed, range(self.step, self.num_steps), self._rows):
            self._take_step(batches)
            if self._timed_from < 0:
                self.progress()
                self._timed_from, self._timed_since = self.step, time.monotonic()
            yield self.step

    def progress(self) -> Progress:
        """Where training stands. Waits for the GPU."""
        loss = float(self._loss)
        seconds = self._seconds_before + time.monotonic() - self._began
        return Progress(self.step, loss, seconds, self.num_tokens, _peak_memory_bytes())

    def seconds_left(self) -> float:
        """From the time that steps took here, the first one left out: it compiles, and waits for the first batches."""
        timed = self.step - self._timed_from
        if timed <= 0:
            return (time.monotonic() - self._began) * (self.num_steps - self.step)
        return (time.monotonic() - self._timed_since) / timed * (self.num_steps - self.step)

    def weights(self) -> dict[str, torch.Tensor]:
        """name → bfloat16 tensor on the CPU, the tied output layer left out."""
        return {
            name: tensor.detach().to("cpu", torch.bfloat16)
            for name, tensor in self._model.state_dict().items()
            if name != "lm_head.weight"
        }

    def state(self) -> dict[str, Any]:
        """What `resume` needs to go on as if nothing had been between."""
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
        """Go on from a `state`.

        Raises:
            ValueError: it is of another seed or number of steps.
        """
        if (state["seed"], state["num_steps"]) != (self.seed, self.num_steps):
            raise ValueError(f"it was made with --seed {state['seed']} --steps {state['num_steps']}")
        self.step, self.num_tokens = state["step"], state["num_tokens"]
        self.first_data_sha256, self.data_sha256 = state["first_data_sha256"], state["data_sha256"]
        self._seconds_before = state["seconds"]
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _take_step(self, batches: list[Batch]) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * _rate(self.step, self.num_steps)
        losses = [self._add_gradient(batch, len(batches)) for batch in batches]
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), MAX_GRADIENT_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._loss = torch.stack(losses).mean()
        self.step += 1
        self.num_tokens += sum(batch.ids.size for batch in batches)
        self.data_sha256 = next_digest(self.data_sha256, batches)
        self.first_data_sha256 = self.first_data_sha256 or self.data_sha256

    def _add_gradient(self, batch: Batch, num_batches: int) -> torch.Tensor:
        """The batch's loss, after its share of the step's gradient was added."""
        total = torch.tensor(batch.weights.sum(), device=self._device)
        num_rows = _CPU_ROWS if self._device.type == "cpu" else len(batch.ids)
        loss = torch.zeros((), device=self._device)
        for first in range(0, len(batch.ids), num_rows):
            ids, weights = (
                torch.from_numpy(part[first : first + num_rows]).to(self._device, non_blocking=True) for part in batch
            )
            with torch.autocast(self._device.type, torch.bfloat16):
                part = self._loss_of(self._model, ids, weights, total)
            torch.autograd.backward(part / num_batches)
            loss += part.detach()
        return loss


def next_digest(digest: str, batches: list[Batch]) -> str:
    """The SHA-256 of all data up to these batches, given that of all before them."""
    sha256 = hashlib.sha256(digest.encode())
    for batch in batches:
        sha256.update(batch.ids.tobytes())
    return sha256.hexdigest()


def _compute_alike() -> None:
    """Have the GPU add in the same order each time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_float32_matmul_precision("high")


def _peak_memory_bytes() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE


def _loss(model: Any, ids: torch.Tensor, weights: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the next tokens, each with the weight of the token that it is, as a share of `total`."""
    ids = ids.long()
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum() / total


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
