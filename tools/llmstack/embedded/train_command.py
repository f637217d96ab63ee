"""Training with a progress bar, from nothing to a checkpoint and its record."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from importlib import metadata
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from safetensors.torch import save

from llmstack.embedded.checkpoint import Checkpoint, TrainingRecord
from llmstack.embedded.release import model_config
from llmstack.embedded.tokenizer import train_tokenizer, write_tokenizer
from llmstack.embedded.training import STEP_ROWS, Progress, train
from llmstack.embedded.weights import TRAINED

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(elapsed_when_finished=True),
)
_LINES = 20  # where nobody watches, so many lines tell how it goes


def train_visibly(console: Console, num_steps: int, seed: int) -> Checkpoint:
    """Train for `num_steps` and show the loss and the time left."""
    last: list[Progress] = []
    with (
        tempfile.TemporaryDirectory() as directory,
        ProgressBar(*_COLUMNS, console=console, disable=not console.is_terminal) as bar,
    ):
        row = bar.add_task("training on " + hardware(), total=num_steps)

        def report(progress: Progress) -> None:
            last[:] = [progress]
            bar.update(row, completed=progress.step, description=f"loss {progress.loss:.4f}")
            if not console.is_terminal and _is_due(progress.step, num_steps):
                console.print(_line(progress, num_steps))

        tokenizer = train_tokenizer()
        write_tokenizer(Path(directory), tokenizer)
        path = Path(directory) / "tokenizer.json"
        weights = train(model_config(tokenizer, TRAINED), path, seed, num_steps, report)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Checkpoint(save(weights, metadata={"format": "pt"}), _record(last[0], seed, num_steps, digest))


def hardware() -> str:
    """What torch computes on here."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"


def _is_due(step: int, num_steps: int) -> bool:
    return step <= 20 or step % max(20, num_steps // _LINES // 20 * 20) == 0


def _line(progress: Progress, num_steps: int) -> str:
    left = progress.seconds / progress.step * (num_steps - progress.step)
    return f"step {progress.step} of {num_steps}, loss {progress.loss:.4f}, {progress.seconds:.0f} s, {left:.0f} s left"


def _record(progress: Progress, seed: int, num_steps: int, tokenizer_sha256: str) -> TrainingRecord:
    return TrainingRecord(
        command=f"llmstack embedded-model train --output CHECKPOINT --steps {num_steps} --seed {seed}",
        seed=seed,
        steps=num_steps,
        examples={task: rows.num_rows * num_steps for task, rows in STEP_ROWS.items()},
        tokens=progress.num_tokens,
        seconds=round(progress.seconds, 1),
        hardware=hardware(),
        torch=torch.__version__,
        transformers=metadata.version("transformers"),
        final_loss=round(progress.loss, 4),
        tokenizer_sha256=tokenizer_sha256,
    )
