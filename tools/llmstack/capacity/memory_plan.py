"""Keys and values of requests in GPU memory: integer arithmetic from a model's own configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

# Bytes of one number in the cache.
KV_BYTES = {"bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


class CapacityError(ValueError):
    """The question can't be answered; the text says what is wrong with it."""


class KvShape(NamedTuple):
    """What one token keeps in the cache."""

    num_layers: int
    num_kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> KvShape:
        """From a model's config.json.

        Raises:
            CapacityError: a figure is missing or none.
        """
        heads = _figure(config, "num_attention_heads")
        if config.get("head_dim") is None:
            head_dim, rest = divmod(_figure(config, "hidden_size"), heads)
            if rest:
                raise CapacityError(f"hidden_size is no multiple of {heads} heads, and head_dim is not given")
        else:
            head_dim = _figure(config, "head_dim")
        kv_heads = heads if config.get("num_key_value_heads") is None else _figure(config, "num_key_value_heads")
        return cls(_figure(config, "num_hidden_layers"), kv_heads, head_dim)

    def bytes_per_token(self, number_bytes: int) -> int:
        """A key and a value of every layer and key head."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * number_bytes


class MemoryPlan(NamedTuple):
    """What is left for keys and values, and how many requests that is. All sizes in bytes."""

    gpu_bytes: int
    engine_bytes: int
    reserved_bytes: int
    bytes_per_token: int
    tokens_per_request: int
    max_batch_size: int
    headroom: Fraction

    @property
    def free_bytes(self) -> int:
        """Beside the engine and what is reserved; negative when not even these fit."""
        return self.gpu_bytes - self.engine_bytes - self.reserved_bytes

    @property
    def bytes_per_request(self) -> int:
        """Of one request of the largest size."""
        return self.bytes_per_token * self.tokens_per_request

    @property
    def usable_bytes(self) -> int:
        """What requests may take, with the headroom left over."""
        return max(0, int(self.free_bytes * (1 - self.headroom)))

    @property
    def num_requests(self) -> int:
        """So many requests of the largest size fit, with the headroom left over."""
        return self.usable_bytes // self.bytes_per_request

    @property
    def holds(self) -> bool:
        """Whether a whole batch of the largest requests fits."""
        return self.num_requests >= self.max_batch_size

    @property
    def actual_headroom(self) -> float:
        """The share of the free memory that a whole batch leaves."""
        if self.free_bytes <= 0:
            return 0.0
        return 1 - self.max_batch_size * self.bytes_per_request / self.free_bytes


def parse_size(text: str) -> int:
    """Bytes of `32GB` (10^9), `32GiB` (2^30) or a plain number.

    Raises:
        CapacityError: it is written otherwise.
    """
    match = _SIZE.fullmatch(text.strip())
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if match is None or match[2].lower() not in units:
        raise CapacityError(f"{text!r} is no size: write 32GB (32 × 10^9 bytes), 32GiB (32 × 2^30 bytes), or bytes")
    return int(Fraction(match[1]) * units[match[2].lower()])


def _figure(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        given = "" if value is None else f", but {value!r}"
        raise CapacityError(f"the model's configuration has no {name} of 1 or more{given}")
    return value
