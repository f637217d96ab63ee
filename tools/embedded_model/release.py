"""Writes the embedded release: from random weights of a seed, or from a checkpoint that `training` made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from embedded_model import weights
from embedded_model.checkpoint import Checkpoint
from embedded_model.model_card import model_card
from embedded_model.schemas import SCHEMAS
from embedded_model.tokenizer import EOS, MAX_LENGTH, PAD, VOCAB_SIZE, added_ids, train_tokenizer, write_tokenizer
from llm_policy.release.digest import engine_hash
from llm_policy.release.release import Release
from llmstack.release.manifest_file import describe_release, manifest_bytes
from llmstack.tokenizer.tokenizer_info import build_info, info_bytes

RANDOM_MODEL, TRAINED_MODEL = "embedded-qwen3-random", "embedded-qwen3"
# The production label, so that clients written for production work unchanged; the weights are bfloat16.
QUANTISATION = "w4a8"
MAX_ANSWER_TOKENS = 256
NUM_STEPS = 4

_PRICES_AND_TASKS = {
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
    report: Callable[[str], None] = lambda step: None,
) -> Release:
    """Write the embedded release to `directory` and prove it. Equal arguments give equal bytes.

    Without `checkpoint` the weights are random, drawn from `seed`. `report` is told each step before it starts.

    Raises:
        OSError: `directory` can't be written.
        ValueError: the checkpoint is of another tokenizer or has other shapes, or its evaluation is another model's.
    """
    report("training the tokenizer")
    tokenizer = train_tokenizer()
    write_tokenizer(directory / "tokenizer", tokenizer)
    (directory / "tokenizer_info.json").write_bytes(info_bytes(build_info(directory / "tokenizer")))
    if checkpoint is not None:
        _check_fits(checkpoint, tokenizer, directory / "tokenizer" / "tokenizer.json")
    report("writing the weights")
    _write_engine(directory / "engine", tokenizer, seed, checkpoint)
    if checkpoint is not None and checkpoint.evaluation is not None:
        _check_evaluated(checkpoint.evaluation, engine_hash(directory / "engine"))
    report("writing schemas, model card and manifest")
    _write_schemas(directory / "schemas")
    if checkpoint is not None:
        checkpoint.write_record(directory)
    (directory / "README.md").write_bytes(model_card(seed, checkpoint, QUANTISATION).encode())
    (directory / "manifest.json").write_bytes(manifest_bytes(describe_release(directory, _settings(checkpoint))))
    report("verifying the release")
    return Release.open(directory).verify_files()


def model_config(tokenizer: Tokenizer, size: weights.Architecture) -> dict[str, Any]:
    """config.json of a model of this size with the embedded tokenizer."""
    ids = added_ids(tokenizer)
    return weights.model_config(size, VOCAB_SIZE, MAX_LENGTH, eos=ids[EOS], pad=ids[PAD])


def _check_fits(checkpoint: Checkpoint, tokenizer: Tokenizer, tokenizer_path: Path) -> None:
    trained_with, ours = checkpoint.record.tokenizer_sha256, hashlib.sha256(tokenizer_path.read_bytes()).hexdigest()
    if trained_with != ours:
        raise ValueError(f"trained with tokenizer.json {trained_with}, this release has {ours}")
    wanted, given = weights.tensor_shapes(model_config(tokenizer, weights.TRAINED)), checkpoint.shapes()
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise ValueError(f"{name} has shape {given.get(name)}, needed is {wanted.get(name)}")


def _check_evaluated(evaluation: bytes, ours: str) -> None:
    evaluated = json.loads(evaluation)["run"]["engine_hash"]
    if evaluated != ours:
        raise ValueError(f"the evaluation is of engine {evaluated}, this one is {ours}")


def _write_engine(directory: Path, tokenizer: Tokenizer, seed: int, checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None:
        weights.write_engine(directory, model_config(tokenizer, weights.TRAINED), checkpoint.weights)
        return
    config = model_config(tokenizer, weights.RANDOM)
    tensors = weights.random_tensors(config, added_ids(tokenizer).values(), seed)
    weights.write_engine(directory, config, weights.safetensors(tensors))


def _settings(checkpoint: Checkpoint | None) -> dict[str, Any]:
    name = TRAINED_MODEL if checkpoint else RANDOM_MODEL
    return {"engine": {"quantisation": QUANTISATION, "model": name, "max_batch_size": 4}, **_PRICES_AND_TASKS}


def _write_schemas(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for name, schema in SCHEMAS.items():
        (directory / f"{name}.json").write_bytes((json.dumps(schema) + "\n").encode())
