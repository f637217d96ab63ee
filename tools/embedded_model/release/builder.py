"""Builds an embedded release, with random weights or from a checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from embedded_model.model.architecture import RANDOM, TRAINED, model_config, tensor_shapes
from embedded_model.model.tokenizer import added_ids, train_tokenizer, write_tokenizer
from embedded_model.model.weights import random_tensors, safetensors, write_engine
from embedded_model.release.model_card import model_card
from embedded_model.release.schemas import SCHEMAS
from embedded_model.training.checkpoint import Checkpoint
from llm_policy.release.digest import engine_hash
from llm_policy.release.release import Release
from llmstack.release.manifest_file import describe_release, manifest_bytes
from llmstack.tokenizer.tokenizer_info import build_info, info_bytes

RANDOM_MODEL, TRAINED_MODEL = "embedded-qwen3-random", "embedded-qwen3"
# Production's label, so that clients written for production work unchanged; the weights are bfloat16.
QUANTISATION = "w4a8"
MAX_ANSWER_TOKENS = 256
# On a CPU, where this release runs, a request in a free slot waits for an iteration of the others, and one without a
# slot for a whole answer. So long a wait means that there was no slot. The manifest's default is for a GPU.
MAX_QUEUE_DELAY_US = 250_000
NUM_STEPS = 4

_LIMITS_AND_TASKS = {
    "thresholds": {"max_queue_delay_us": MAX_QUEUE_DELAY_US},
    "prices": {"input_usd_per_million": 0.10, "output_usd_per_million": 0.30},
    "tasks": {
        "generate_json": {"temperature": 0.0, "schema_id": "order", "max_tokens": MAX_ANSWER_TOKENS},
        "rank_candidates": {"temperature": 0.0, "schema_id": "ranking", "max_tokens": MAX_ANSWER_TOKENS},
        "judge": {"temperature": 0.1, "top_p": 0.9, "schema_id": "verdict", "max_tokens": MAX_ANSWER_TOKENS},
    },
}


def build_release(
    directory: Path,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> Release:
    """Write an embedded release to `directory` and verify it. Equal arguments give equal bytes.

    Without `checkpoint` the weights are random, from `seed`. `on_step` receives a description of each of the
    `NUM_STEPS` steps before it starts.

    Raises:
        OSError: `directory` can't be written.
        ValueError: the checkpoint has another tokenizer or other tensor shapes, or its evaluation another engine.
    """
    on_step("training the tokenizer")
    tokenizer = train_tokenizer()
    write_tokenizer(directory / "tokenizer", tokenizer)
    (directory / "tokenizer_info.json").write_bytes(info_bytes(build_info(directory / "tokenizer")))
    if checkpoint is not None:
        _check_compatible(checkpoint, tokenizer, directory / "tokenizer" / "tokenizer.json")
    on_step("writing the weights")
    _write_engine(directory / "engine", tokenizer, seed, checkpoint)
    if checkpoint is not None and checkpoint.evaluation is not None:
        _check_evaluated_engine(checkpoint.evaluation, engine_hash(directory / "engine"))
    on_step("writing schemas, model card and manifest")
    _write_schemas(directory / "schemas")
    if checkpoint is not None:
        checkpoint.write_record(directory)
    (directory / "README.md").write_bytes(model_card(seed, checkpoint, QUANTISATION).encode())
    (directory / "manifest.json").write_bytes(manifest_bytes(describe_release(directory, _settings(checkpoint))))
    on_step("verifying the release")
    return Release.open(directory).verify_files()


def _check_compatible(checkpoint: Checkpoint, tokenizer: Tokenizer, tokenizer_path: Path) -> None:
    expected, given = hashlib.sha256(tokenizer_path.read_bytes()).hexdigest(), checkpoint.record.tokenizer_sha256
    if given != expected:
        raise ValueError(f"trained with tokenizer.json {given}, this release has {expected}")
    expected_shapes, shapes = tensor_shapes(model_config(TRAINED, tokenizer)), checkpoint.shapes()
    for name in sorted(expected_shapes.keys() | shapes.keys()):
        if expected_shapes.get(name) != shapes.get(name):
            raise ValueError(f"{name} has shape {shapes.get(name)}, expected {expected_shapes.get(name)}")


def _check_evaluated_engine(evaluation: bytes, expected: str) -> None:
    evaluated = json.loads(evaluation)["run"]["engine_hash"]
    if evaluated != expected:
        raise ValueError(f"the evaluation is of engine {evaluated}, this release has {expected}")


def _write_engine(directory: Path, tokenizer: Tokenizer, seed: int, checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None:
        write_engine(directory, model_config(TRAINED, tokenizer), checkpoint.weights)
        return
    config = model_config(RANDOM, tokenizer)
    write_engine(directory, config, safetensors(random_tensors(config, added_ids(tokenizer).values(), seed)))


def _settings(checkpoint: Checkpoint | None) -> dict[str, Any]:
    name = TRAINED_MODEL if checkpoint else RANDOM_MODEL
    return {"engine": {"quantisation": QUANTISATION, "model": name, "max_batch_size": 4}, **_LIMITS_AND_TASKS}


def _write_schemas(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for name, schema in SCHEMAS.items():
        (directory / f"{name}.json").write_bytes((json.dumps(schema) + "\n").encode())
