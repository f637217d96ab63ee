"""`python -m embedded_model train`: trains with a progress bar. Importing this module imports torch."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from embedded_model.training.checkpoint import Checkpoint
from embedded_model.training.run import TrainingRun, hardware
from embedded_model.training.settings import TrainingSettings
from embedded_model.training.trainer import Trainer

_COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("left"),
    TimeRemainingColumn(elapsed_when_finished=True),
)
_MAX_LINES = 20  # printed when standard error is no terminal
_REPORT_EVERY = 20  # steps, because reading the loss waits for the GPU


def train_with_progress(console: Console, settings: TrainingSettings) -> Checkpoint | None:
    """Train, and show the loss, the time left and the peak memory; None when Ctrl-C stopped the training.

    Raises:
        OSError: the directory can't be written, or holds no state to resume.
        ValueError: the state has another seed or number of steps.
    """
    run = TrainingRun(settings)
    first = run.trainer.step + 1
    bar = ProgressBar(*_COLUMNS, console=console, disable=not console.is_terminal)
    row = bar.add_task("training on " + hardware(), total=settings.num_steps, completed=run.trainer.step)

    def on_step(trainer: Trainer) -> None:
        step = trainer.step
        bar.update(row, completed=step)
        if step % _REPORT_EVERY and step > first + 1:
            return
        bar.update(row, description=f"loss {trainer.progress().loss:.4f}")
        if step <= first + 1 or (not console.is_terminal and _is_line_due(step, settings.num_steps)):
            console.print(_progress_line(trainer))

    with _stop_on_ctrl_c() as should_stop, bar:
        return run.run(on_step, should_stop)


@contextmanager
def _stop_on_ctrl_c() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C stops the training after the current step, the second one raises KeyboardInterrupt."""
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGINT, previous)


def _is_line_due(step: int, num_steps: int) -> bool:
    every = max(_REPORT_EVERY, num_steps // _MAX_LINES // _REPORT_EVERY * _REPORT_EVERY)
    return step <= _REPORT_EVERY or step % every == 0


def _progress_line(trainer: Trainer) -> str:
    progress = trainer.progress()
    return (
        f"step {progress.step} of {trainer.num_steps}, loss {progress.loss:.4f}, {progress.seconds:.0f} s, "
        f"about {trainer.seconds_left():.0f} s left, {progress.peak_memory_bytes / 2**30:.1f} GiB"
    )
