"""A release of a small model with random weights and Qwen's vocabulary, to measure what token masks cost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llm_policy.release.release import Release
from llmstack.bench.random_release import RandomRelease, write_random_release
from llmstack.capacity.model_shapes import QWEN3_32B
from llmstack.tokenizer.qwen_vocabulary import build_tokenizer
from portable_engine.loader import RANDOM_WEIGHTS

SMALL_QWEN3: dict[str, Any] = {
    **QWEN3_32B,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_window_layers": 2,
    "max_position_embeddings": 4_096,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
"""A step takes about 14 ms on one CPU thread, as a step of Qwen3-32B with 4-bit weights does on an H200."""


def write_small_release(directory: Path, tokenizer_dir: Path, template: Release) -> Release:
    """Write the release. `tokenizer_dir` keeps the tokenizer.json, which takes 10 s to build.

    From now on this process may load models without weights.

    Raises:
        FileNotFoundError: the package with Qwen's vocabulary is not installed.
        OSError: a directory can't be written.
    """
    build_tokenizer(tokenizer_dir)
    os.environ[RANDOM_WEIGHTS] = "1"
    return write_random_release(
        directory, RandomRelease("qwen3-small", SMALL_QWEN3, tokenizer_dir=tokenizer_dir), template
    )
