"""Tensors that repeat from request to request, made once.

A `pb_utils.Tensor` that has been sent stays in shared memory and is sent again without a copy; making one costs
10-20 µs, most of what a small tensor costs at all. Switches, ids, counts and fixed texts repeat, so they are kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from llm_policy.rules.request import Array, Column

# What the kept tensors may hold of the stub's shared memory; a small one takes about 256 bytes there.
MAX_KEPT_BYTES = 2 << 20
_TENSOR_BYTES = 256


class TensorCache:
    """The tensors used last, by name and values, up to `MAX_KEPT_BYTES`. Two threads may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tensors: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._kept_bytes = 0

    def tensor(self, name: str, values: Column | Array) -> Any:
        """A tensor of that name; a column's is kept, an array's is made anew, but for an empty one."""
        if isinstance(values, Column):
            key = (name, values.values)
        elif values.size == 0:
            key = (name, values.shape)
        else:
            return pb_utils.Tensor(name, values)
        with self._lock:
            kept = self._tensors.get(key)
            if kept is None:
                return self._keep(key, name, values)
            self._tensors.move_to_end(key)
            return kept

    def _keep(self, key: tuple[Any, ...], name: str, values: Column | Array) -> Any:
        array = values.array() if isinstance(values, Column) else values
        tensor = self._tensors[key] = pb_utils.Tensor(name, array)
        self._kept_bytes += _size(key)
        while self._kept_bytes > MAX_KEPT_BYTES:
            oldest, _ = self._tensors.popitem(last=False)
            self._kept_bytes -= _size(oldest)
        return tensor


def _size(key: tuple[Any, ...]) -> int:
    return _TENSOR_BYTES + sum(len(value) for value in key[1] if isinstance(value, bytes))


def new_tensor(name: str, values: Column | Array) -> Any:
    """A tensor that is used once."""
    return pb_utils.Tensor(name, np.ascontiguousarray(values.array() if isinstance(values, Column) else values))
