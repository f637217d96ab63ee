"""Settings of a training run, apart from `run`, so that the command line can import them without torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class TrainingSettings(NamedTuple):
    """Settings of a run. `save_every` is in steps; without `source_commit` git is asked for it."""

    output: Path
    num_steps: int
    seed: int
    save_every: int
    is_resumed: bool
    source_commit: str = ""
