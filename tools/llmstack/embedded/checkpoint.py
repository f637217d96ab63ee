"""A trained model on its way into a release: the weights, and the record of how they were made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

WEIGHTS_NAME, RECORD_NAME = "model.safetensors", "training.json"


class TrainingRecord(BaseModel):
    """How a checkpoint was made."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    command: str
    seed: int
    steps: Annotated[int, Field(ge=1)]
    examples: dict[str, int]  # by task
    tokens: int
    seconds: float
    hardware: str
    torch: str
    transformers: str
    final_loss: float
    tokenizer_sha256: str


class Checkpoint(NamedTuple):
    """The bytes of a safetensors file in bfloat16, and their record."""

    weights: bytes
    record: TrainingRecord

    @classmethod
    def read(cls, directory: Path) -> Checkpoint:
        """The checkpoint in `directory`; a release that was built from one holds it too.

        Raises:
            OSError: a file is missing.
            ValueError: the record is none.
        """
        inside_release = directory / "engine" / WEIGHTS_NAME
        weights = inside_release if inside_release.exists() else directory / WEIGHTS_NAME
        record = TrainingRecord.model_validate_json((directory / RECORD_NAME).read_bytes())
        return cls(weights.read_bytes(), record)

    def write(self, directory: Path) -> None:
        """Write both files to `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / WEIGHTS_NAME).write_bytes(self.weights)
        self.write_record(directory)

    def write_record(self, directory: Path) -> None:
        """Write the record alone."""
        (directory / RECORD_NAME).write_bytes(self.record.model_dump_json(indent=2).encode() + b"\n")
