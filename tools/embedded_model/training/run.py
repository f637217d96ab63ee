"""A training run in a directory: from the start or a saved state to a checkpoint with its record."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from safetensors.torch import save

from embedded_model.model.architecture import TRAINED, model_config
from embedded_model.model.tokenizer import train_tokenizer, write_tokenizer
from embedded_model.training.batches import BATCH_SIZES
from embedded_model.training.checkpoint import Checkpoint, TrainingRecord
from embedded_model.training.settings import TrainingSettings
from embedded_model.training.trainer import Trainer

_STATE_NAME = "state.pt"


class TrainingRun:
    """Trains in the directory `settings.output`, which gets the saved state and, at the end, the checkpoint."""

    def __init__(self, settings: TrainingSettings) -> None:
        """Train the tokenizer, and load the state when resuming.

        Raises:
            OSError: the directory can't be written, or holds no state to resume.
            ValueError: the state has another seed or number of steps.
        """
        self._settings = settings
        self._state_path = settings.output / _STATE_NAME
        settings.output.mkdir(parents=True, exist_ok=True)
        state = torch.load(self._state_path, weights_only=True) if settings.is_resumed else None
        tokenizer = train_tokenizer()
        write_tokenizer(settings.output / "tokenizer", tokenizer)
        self._tokenizer_path = settings.output / "tokenizer" / "tokenizer.json"
        self.trainer = Trainer(model_config(TRAINED, tokenizer), settings.seed, settings.num_steps)
        if state is not None:
            self.trainer.resume(state)

    def run(
        self, on_step: Callable[[Trainer], None] = lambda trainer: None, should_stop: Callable[[], bool] = lambda: False
    ) -> Checkpoint | None:
        """Train to the end and write the checkpoint, or save the state and return None when `should_stop()`.

        Raises:
            OSError: the directory can't be written.
        """
        for step in self.trainer.run(self._tokenizer_path):
            on_step(self.trainer)
            if step == self._settings.num_steps:
                break
            is_stopping = should_stop()
            if step % self._settings.save_every == 0 or is_stopping:
                self._save_state()
            if is_stopping:
                return None
        return self._write_checkpoint()

    def _save_state(self) -> None:
        """Replaces the file atomically."""
        part = self._state_path.with_suffix(".part")
        torch.save(self.trainer.state(), part)
        part.replace(self._state_path)

    def _write_checkpoint(self) -> Checkpoint:
        weights = save(self.trainer.weights(), metadata={"format": "pt"})
        checkpoint = Checkpoint(weights, self._record(weights))
        checkpoint.write(self._settings.output)
        self._state_path.unlink(missing_ok=True)
        return checkpoint

    def _record(self, weights: bytes) -> TrainingRecord:
        settings, trainer = self._settings, self.trainer
        progress = trainer.progress()
        return TrainingRecord(
            command=(
                "python -m embedded_model train --output CHECKPOINT "
                f"--steps {settings.num_steps} --seed {settings.seed}"
            ),
            source_commit=settings.source_commit or _git_commit(),
            seed=settings.seed,
            steps=settings.num_steps,
            examples={
                task: sum(size.num_rows for size in sizes) * settings.num_steps for task, sizes in BATCH_SIZES.items()
            },
            tokens=progress.num_tokens,
            seconds=round(progress.seconds, 1),
            peak_memory_bytes=progress.peak_memory_bytes,
            hardware=hardware(),
            torch=torch.__version__,
            transformers=metadata.version("transformers"),
            final_loss=round(progress.loss, 4),
            tokenizer_sha256=hashlib.sha256(self._tokenizer_path.read_bytes()).hexdigest(),
            first_data_sha256=trainer.first_data_sha256,
            data_sha256=trainer.data_sha256,
            weights_sha256=hashlib.sha256(weights).hexdigest(),
        )


def hardware() -> str:
    """The name of the GPU, or of the CPU's architecture without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"


def _git_commit() -> str:
    """The commit of this source, with `+` when there are uncommitted changes; empty outside of a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe"]
    command += ["--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
