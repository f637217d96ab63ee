"""Training with a progress bar, from nothing or from where it was stopped, to a checkpoint and its record."""

from __future__ import annotations

import hashlib
import platform
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from safetensors.torch import save

from embedded_model.batches import STEP_ROWS
from embedded_model.checkpoint import Checkpoint, TrainingRecord
from embedded_model.release import model_config
from embedded_model.tokenizer import train_tokenizer, write_tokenizer
from embedded_model.training import Progress, Trainer
from embedded_model.weights import TRAINED

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(elapsed_when_finished=True),
)
_STATE_NAME = "state.pt"
_LINES = 20  # where nobody watches, so many lines tell how it goes
_REPORT_EVERY = 20  # steps: reading the loss waits for the GPU


class Plan(NamedTuple):
    """What `train` was asked for. `source_commit` is empty where git has to tell it."""

    output: Path
    num_steps: int
    seed: int
    save_every: int
    is_resumed: bool
    source_commit: str = ""


def train_visibly(console: Console, plan: Plan) -> Checkpoint | None:
    """Train and show the loss, the time left and the memory; None when it was stopped before the end.

    `plan.output` gets the state every `save_every` steps and at a stop, and the checkpoint at the end.

    Raises:
        OSError: the directory can't be written, or holds no state to resume.
        ValueError: its state is of other steps or another seed.
    """
    plan.output.mkdir(parents=True, exist_ok=True)
    state = torch.load(plan.output / _STATE_NAME, weights_only=True) if plan.is_resumed else None
    tokenizer = train_tokenizer()
    write_tokenizer(plan.output / "tokenizer", tokenizer)
    path = plan.output / "tokenizer" / "tokenizer.json"
    trainer = Trainer(model_config(tokenizer, TRAINED), plan.seed, plan.num_steps)
    if state is not None:
        trainer.resume(state)
    if not _run(console, plan, trainer, path):
        return None
    weights = save(trainer.weights(), metadata={"format": "pt"})
    checkpoint = Checkpoint(weights, _record(trainer, plan, path.read_bytes(), weights))
    checkpoint.write(plan.output)
    (plan.output / _STATE_NAME).unlink(missing_ok=True)
    return checkpoint


def hardware() -> str:
    """What torch computes on here."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"


def _run(console: Console, plan: Plan, trainer: Trainer, tokenizer_path: Path) -> bool:
    """Train to the end, or until Ctrl-C; whether it was the end."""
    first = trainer.step + 1
    with (
        _stop_asked() as is_stopping,
        ProgressBar(*_COLUMNS, console=console, disable=not console.is_terminal) as bar,
    ):
        row = bar.add_task("training on " + hardware(), total=plan.num_steps, completed=trainer.step)
        for step in trainer.run(tokenizer_path):
            bar.update(row, completed=step)
            if step % _REPORT_EVERY == 0 or step in (first, first + 1):
                progress = trainer.progress()
                bar.update(row, description=f"loss {progress.loss:.4f}")
                if step <= first + 1 or (not console.is_terminal and _is_due(step, plan.num_steps)):
                    console.print(_line(progress, trainer))
            if step == plan.num_steps:
                break
            if step % plan.save_every == 0 or is_stopping():
                _save_state(trainer, plan.output / _STATE_NAME)
            if is_stopping():
                return False
    return True


def _save_state(trainer: Trainer, path: Path) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(trainer.state(), part)
    part.replace(path)


@contextmanager
def _stop_asked() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: the step under way is finished first. Pressed again it interrupts as ever."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def _is_due(step: int, num_steps: int) -> bool:
    return step <= _REPORT_EVERY or step % max(_REPORT_EVERY, num_steps // _LINES // _REPORT_EVERY * _REPORT_EVERY) == 0


def _line(progress: Progress, trainer: Trainer) -> str:
    left = trainer.seconds_left()
    return (
        f"step {progress.step} of {trainer.num_steps}, loss {progress.loss:.4f}, {progress.seconds:.0f} s, "
        f"about {left:.0f} s left, {progress.memory_bytes / 2**30:.1f} GiB"
    )


def _record(trainer: Trainer, plan: Plan, tokenizer: bytes, weights: bytes) -> TrainingRecord:
    progress = trainer.progress()
    return TrainingRecord(
        command=f"llmstack embedded-model train --output CHECKPOINT --steps {plan.num_steps} --seed {plan.seed}",
        source_commit=plan.source_commit or _git_commit(),
        seed=plan.seed,
        steps=plan.num_steps,
        examples={task: sum(size.num_rows for size in rows) * plan.num_steps for task, rows in STEP_ROWS.items()},
        tokens=progress.num_tokens,
        seconds=round(progress.seconds, 1),
        peak_memory_bytes=progress.memory_bytes,
        hardware=hardware(),
        torch=torch.__version__,
        transformers=metadata.version("transformers"),
        final_loss=round(progress.loss, 4),
        tokenizer_sha256=hashlib.sha256(tokenizer).hexdigest(),
        first_data_sha256=trainer.first_data_sha256,
        data_sha256=trainer.data_sha256,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
    )


def _git_commit() -> str:
    """The commit that this code is of, with `+` when it was changed since; empty where git knows none."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=40",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
