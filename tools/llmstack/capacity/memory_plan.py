"""GPU memory for the keys and values of requests: integer arithmetic from a model's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

# Bytes of one number in the KV cache, by data type.
KV_BYTES = {"bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MIN_UNITLESS_BYTES = 10**6
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


class CapacityError(ValueError):
    """The plan can't be computed; the text says which input is wrong."""


class Parallelism(NamedTuple):
    """How a model is split: each layer over `tensor` GPUs, the layers over `pipeline` groups of them."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def num_gpus(self) -> int:
        """GPUs of one copy of the model."""
        return self.tensor * self.pipeline

    def check(self, config: Mapping[str, Any]) -> None:
        """Raises CapacityError if the model of a Hugging Face config.json can't be split in this way."""
        heads, layers = positive_int(config, "num_attention_heads"), positive_int(config, "num_hidden_layers")
        if heads % self.tensor:
            raise CapacityError(f"{heads} attention heads can't be split over {self.tensor} GPUs")
        if self.pipeline > layers:
            raise CapacityError(f"{layers} layers can't be split over {self.pipeline} groups of GPUs")

    def share(self, size: int) -> int:
        """One GPU's part of `size` bytes that are split evenly, rounded up."""
        return ceil_div(size, self.num_gpus)


class KvShape(NamedTuple):
    """The dimensions of a model's KV cache."""

    num_layers: int
    num_kv_heads: int
    head_dim: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> KvShape:
        """Read the shape from a Hugging Face config.json.

        Raises:
            CapacityError: a number is missing or invalid.
        """
        heads = positive_int(config, "num_attention_heads")
        if config.get("head_dim") is None:
            head_dim, rest = divmod(positive_int(config, "hidden_size"), heads)
            if rest:
                raise CapacityError(f"hidden_size is not a multiple of {heads} heads, and head_dim is missing")
        else:
            head_dim = positive_int(config, "head_dim")
        kv_heads = heads if config.get("num_key_value_heads") is None else positive_int(config, "num_key_value_heads")
        return cls(positive_int(config, "num_hidden_layers"), kv_heads, head_dim)

    def per_gpu(self, parallelism: Parallelism) -> KvShape:
        """The largest share of one GPU: some of the layers, and some of the heads but at least one."""
        return self._replace(
            num_layers=ceil_div(self.num_layers, parallelism.pipeline),
            num_kv_heads=max(1, ceil_div(self.num_kv_heads, parallelism.tensor)),
        )

    def bytes_per_token(self, number_bytes: int) -> int:
        """Bytes of one token: a key and a value for every layer and KV head, `number_bytes` per number."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * number_bytes


class MemoryPlan(NamedTuple):
    """How many requests of the largest size fit beside the engine. All sizes are in bytes.

    With several GPUs it is the plan of the fullest one: each holds a part of the engine and of every request.
    """

    gpu_bytes: int
    engine_bytes: int
    reserved_bytes: int
    bytes_per_token: int
    tokens_per_request: int
    max_batch_size: int
    headroom: Fraction

    @property
    def free_bytes(self) -> int:
        """Memory without the engine and the reserve; negative if those do not fit."""
        return self.gpu_bytes - self.engine_bytes - self.reserved_bytes

    @property
    def bytes_per_request(self) -> int:
        """KV cache of one request of the largest size."""
        return self.bytes_per_token * self.tokens_per_request

    @property
    def usable_bytes(self) -> int:
        """Free memory without the headroom."""
        return max(0, int(self.free_bytes * (1 - self.headroom)))

    @property
    def num_requests(self) -> int:
        """Number of requests of the largest size that fit into the usable memory."""
        return self.usable_bytes // self.bytes_per_request

    @property
    def batch_fits(self) -> bool:
        """Whether a whole batch of requests of the largest size fits."""
        return self.num_requests >= self.max_batch_size

    @property
    def actual_headroom(self) -> float:
        """The share of the free memory that a whole batch leaves."""
        if self.free_bytes <= 0:
            return 0.0
        return 1 - self.max_batch_size * self.bytes_per_request / self.free_bytes


def parse_size(text: str) -> int:
    """Number of bytes in `32GB` (decimal), `32GiB` (binary) or a plain number: 0, or 10^6 and more.

    Raises:
        CapacityError: `text` has another form, or is a number so small that it lacks its unit.
    """
    match = _SIZE.fullmatch(text.strip())
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if match is None or match[2].lower() not in units:
        raise CapacityError(f"{text!r} is not a size: write 32GB (32 × 10^9 bytes), 32GiB (32 × 2^30 bytes), or bytes")
    size = int(Fraction(match[1]) * units[match[2].lower()])
    if not match[2] and 0 < size < _MIN_UNITLESS_BYTES:
        raise CapacityError(f"{text!r} is not a size: it means {size} bytes; write {match[1]}GB or {match[1]}GiB")
    return size


def ceil_div(number: int, divisor: int) -> int:
    """`number` / `divisor`, rounded up."""
    return -(-number // divisor)


def positive_int(config: Mapping[str, Any], name: str) -> int:
    """The integer `name` of a model's configuration.

    Raises:
        CapacityError: it is missing or not an integer of 1 or more.
    """
    value = config.get(name)
    if value is None:
        raise CapacityError(f"the model's configuration has no {name}")
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CapacityError(f"{name} in the model's configuration must be an integer of 1 or more, not {value!r}")
    return value
