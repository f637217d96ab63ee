"""The tensors of the responses in mid-stream, one response per token or few."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ensemble_stream.stream import Chunk

# Each kept tensor takes about 256 bytes of the stub's shared memory.
MAX_COUNTS = 1_024


class ChunkTensors:
    """Creates them; the token counts, which begin at 1 in each stream, are kept and sent again without a copy.

    Their limit is one of numbers: `TensorCache`, whose limit is one of bytes, takes longer to look up. Thread-safe.
    """

    def __init__(self) -> None:
        self._count = lru_cache(MAX_COUNTS)(_count_tensor)
        self._not_last = pb_utils.Tensor("is_last", np.array([[False]]))

    def create(self, chunk: Chunk, requested: Collection[str]) -> list[Any]:
        """The tensors of a chunk that is not the last one, those that are requested."""
        tensors = []
        if "text_output" in requested:
            tensors.append(pb_utils.Tensor("text_output", np.array([[chunk.text.encode()]], np.object_)))
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
