"""A checkpoint: trained weights, the record of the training, and the evaluation of the model if there is one."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

WEIGHTS_NAME, RECORD_NAME, EVALUATION_NAME = "model.safetensors", "training.json", "evaluation.json"


class TrainingRecord(BaseModel):
    """How a checkpoint was made: the content of training.json."""

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
    data_sha256: str  # of all steps' token ids
    weights_sha256: str


class Checkpoint(NamedTuple):
    """The bytes of a bfloat16 safetensors file, their record, and the output of `evaluate --json` if there is one."""

    weights: bytes
    record: TrainingRecord
    evaluation: bytes | None = None

    @classmethod
    def read(cls, directory: Path) -> Checkpoint:
        """Read a checkpoint directory, or a release that was built from a checkpoint.

        Raises:
            OSError: a file is missing.
            ValueError: the record is invalid or belongs to other weights.
        """
        inside_release = directory / "engine" / WEIGHTS_NAME
        weights = (inside_release if inside_release.exists() else directory / WEIGHTS_NAME).read_bytes()
        record = TrainingRecord.model_validate_json((directory / RECORD_NAME).read_bytes())
        if hashlib.sha256(weights).hexdigest() != record.weights_sha256:
            raise ValueError(f"{WEIGHTS_NAME} doesn't match weights_sha256 in {RECORD_NAME}")
        evaluation = directory / EVALUATION_NAME
        return cls(weights, record, evaluation.read_bytes() if evaluation.exists() else None)

    def write(self, directory: Path) -> None:
        """Write all files of the checkpoint to `directory`."""
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
            ValueError: the weights are not a safetensors file.
        """
        try:
            (length,) = struct.unpack_from("<Q", self.weights)
            header: dict[str, Any] = json.loads(self.weights[8 : 8 + length])
            return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
        except (struct.error, LookupError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{WEIGHTS_NAME} is not a safetensors file: {error}") from None
