"""A cache of `pb_utils.Tensor` objects that repeat from request to request.

A tensor that has been sent stays in shared memory and can be sent again without a copy. Creating one takes 10-20 µs,
most of the cost of a small tensor. Switches, ids, counts and fixed texts repeat, so their tensors are cached.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import triton_python_backend_utils as pb_utils
from cachetools import LRUCache

from llm_policy.rules.row_input import Array
from llm_policy.steps.column import Column

# Limit on the stub's shared memory that cached tensors may hold; a small tensor takes about 256 bytes there.
MAX_CACHED_BYTES = 2 << 20
_TENSOR_BYTES = 256

_Key = tuple[str, tuple[Any, ...]]


class _CachedTensor(NamedTuple):
    tensor: Any
    num_bytes: int


class TensorCache:
    """The most recently used tensors, by name and values, up to `MAX_CACHED_BYTES`. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tensors: LRUCache[_Key, _CachedTensor] = LRUCache(MAX_CACHED_BYTES, lambda cached: cached.num_bytes)

    def tensor(self, name: str, values: Column | Array) -> Any:
        """A tensor of that name. Columns and empty arrays are cached; other arrays are not."""
        if isinstance(values, Column):
            key = (name, values.values)
        elif values.size == 0:
            key = (name, values.shape)
        else:
            return pb_utils.Tensor(name, values)
        with self._lock:
            try:
                return self._tensors[key].tensor
            except KeyError:
                return self._create(key, name, values)

    def _create(self, key: _Key, name: str, values: Column | Array) -> Any:
        tensor = pb_utils.Tensor(name, values.array() if isinstance(values, Column) else values)
        num_bytes = _TENSOR_BYTES + sum(len(value) for value in key[1] if isinstance(value, bytes))
        if num_bytes <= MAX_CACHED_BYTES:
            self._tensors[key] = _CachedTensor(tensor, num_bytes)
        return tensor


def new_tensor(name: str, values: Column | Array) -> Any:
    """A tensor that is not cached."""
    return pb_utils.Tensor(name, np.ascontiguousarray(values.array() if isinstance(values, Column) else values))
