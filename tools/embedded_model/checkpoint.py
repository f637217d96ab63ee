"""A trained model on its way into a release: the weights, the record of how they were made, and how well they do."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

WEIGHTS_NAME, RECORD_NAME, EVALUATION_NAME = "model.safetensors", "training.json", "evaluation.json"


class TrainingRecord(BaseModel):
    """How a checkpoint was made."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    command: str
    source_commit: str
    seed: int
    steps: Annotated[int, Field(ge=1)]
    examples: dict[str, int]  # by task
    tokens: int
    seconds: float
    peak_memory_bytes: int
    hardware: str
    torch: str
    transformers: str
    final_loss: float
    tokenizer_sha256: str
    first_data_sha256: str  # of the first step's token ids
    data_sha256: str  # of those of all steps
    weights_sha256: str


class Checkpoint(NamedTuple):
    """The bytes of a safetensors file in bfloat16, their record, and what `evaluate --json` printed, if anything."""

    weights: bytes
    record: TrainingRecord
    evaluation: bytes | None = None

    @classmethod
    def read(cls, directory: Path) -> Checkpoint:
        """The checkpoint in `directory`; a release that was built from one holds it too.

        Raises:
            OSError: a file is missing.
            ValueError: the record is none, or not of these weights.
        """
        inside_release = directory / "engine" / WEIGHTS_NAME
        weights = (inside_release if inside_release.exists() else directory / WEIGHTS_NAME).read_bytes()
        record = TrainingRecord.model_validate_json((directory / RECORD_NAME).read_bytes())
        if hashlib.sha256(weights).hexdigest() != record.weights_sha256:
            raise ValueError(f"{WEIGHTS_NAME} is not the file that {RECORD_NAME} tells of (weights_sha256)")
        evaluation = directory / EVALUATION_NAME
        return cls(weights, record, evaluation.read_bytes() if evaluation.exists() else None)

    def write(self, directory: Path) -> None:
        """Write the weights and the record to `directory`."""
        (directory / WEIGHTS_NAME).write_bytes(self.weights)
        self.write_record(directory)

    def write_record(self, directory: Path) -> None:
        """Write the record, and the evaluation if there is one."""
        (directory / RECORD_NAME).write_bytes(self.record.model_dump_json(indent=2).encode() + b"\n")
        if self.evaluation is not None:
            (directory / EVALUATION_NAME).write_bytes(self.evaluation)

    def shapes(self) -> dict[str, list[int]]:
        """Tensor name → shape.

        Raises:
            ValueError: the weights are no safetensors file.
        """
        try:
            (length,) = struct.unpack_from("<Q", self.weights)
            header: dict[str, Any] = json.loads(self.weights[8 : 8 + length])
            return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
        except (struct.error, LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{WEIGHTS_NAME} is no safetensors file: {error}") from None
