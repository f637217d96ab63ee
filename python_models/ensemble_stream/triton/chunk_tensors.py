"""The tensors of the responses in mid-stream, one response per token or few."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble_stream.stream import Chunk

# Each kept tensor takes about 256 bytes of the stub's shared memory.
MAX_COUNTS, MAX_TEXTS = 1_024, 4_096
MAX_KEPT_CHARACTERS = 16


class ChunkTensors:
    """Creates them; those that repeat are kept and sent again without a copy.

    These are the token counts, which begin at 1 in each stream, and short texts: a chunk is a token mostly, and few
    tokens make up most of a text. Their limits are numbers: `TensorCache`, whose limit is one of bytes, takes longer to
    look up. Thread-safe.
    """

    def __init__(self) -> None:
        self._count, self._text = lru_cache(MAX_COUNTS)(_count_tensor), lru_cache(MAX_TEXTS)(_text_tensor)
        self._not_last = pb_utils.Tensor("is_last", np.array([[False]]))

    def create(self, chunk: Chunk, requested: Collection[str]) -> list[Any]:
        """The tensors of a chunk that is not the last one, those that are requested."""
        tensors = []
        if "text_output" in requested:
            is_kept = len(chunk.text) <= MAX_KEPT_CHARACTERS
            tensors.append((self._text if is_kept else _text_tensor)(chunk.text))
        if "num_output_tokens" in requested:
            tensors.append(self._count(chunk.num_tokens))
        if "is_last" in requested:
            tensors.append(self._not_last)
        if chunk.log_probs and "output_log_probs" in requested:
            tensors.append(pb_utils.Tensor("output_log_probs", log_probs_array(chunk)))
        return tensors


def log_probs_array(chunk: Chunk) -> Any:
    """The log-probabilities of the chunk's tokens, float32 [1, 1, tokens]."""
    return np.frombuffer(chunk.log_probs, np.float32).reshape(1, 1, -1)


def _count_tensor(num_tokens: int) -> Any:
    return pb_utils.Tensor("num_output_tokens", np.array([[num_tokens]], np.int32))


def _text_tensor(text: str) -> Any:
    return pb_utils.Tensor("text_output", np.array([[text.encode()]], np.object_))
