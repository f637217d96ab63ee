"""GPU memory for the weights of a dense model, from its configuration and the format of its linear layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from llmstack.capacity.memory_plan import CapacityError, KvShape, Parallelism, ceil_div, positive_int

_GROUP_SIZE = 128
_EMBEDDING_BYTES = 2  # embeddings, lm_head and norms are not quantised: bf16
_VOCAB_MULTIPLE = 64
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


class WeightFormat(NamedTuple):
    """Bytes of one weight of a linear layer, and of the scale that each group of 128 weights shares."""

    weight_bytes: Fraction
    scale_bytes: int
    meaning: str

    @property
    def bytes_per_weight(self) -> Fraction:
        """Bytes of one weight with its share of the scale."""
        return self.weight_bytes + Fraction(self.scale_bytes, _GROUP_SIZE)


FORMATS = {
    "bf16": WeightFormat(Fraction(2), 0, "2 bytes"),
    "fp8": WeightFormat(Fraction(1), 0, "1 byte"),
    # A file holds a scale as bf16. CUTLASS's kernel for Hopper GPUs keeps a table of 8 fp8 numbers in its place.
    "w4a8": WeightFormat(Fraction(1, 2), 8, "4 bits, and 8 bytes for 128 weights"),
    "w4a16": WeightFormat(Fraction(1, 2), 2, "4 bits, and 2 bytes for 128 weights"),
}


class WeightShare(NamedTuple):
    """The largest part of the weights that one GPU holds, in bytes."""

    linear_bytes: int
    embedding_bytes: int

    @property
    def total_bytes(self) -> int:
        """All weights of the GPU."""
        return self.linear_bytes + self.embedding_bytes


def weight_share(config: Mapping[str, Any], weight_format: WeightFormat, parallelism: Parallelism) -> WeightShare:
    """The part of one GPU of the model in a Hugging Face config.json, such as Llama's and Qwen3's. Norms are left out.

    Tensor parallelism splits every linear layer and the vocabulary. A GPU has at least one KV head, so with more GPUs
    than KV heads those are there several times. Of the embeddings and lm_head, a group of a pipeline has one at most.

    Raises:
        CapacityError: a number is missing or invalid, or the model has experts.
    """
    if any(config.get(name) for name in _EXPERTS):
        raise CapacityError("the weights of a model with experts can't be computed: give --engine-bytes")
    hidden, vocabulary = positive_int(config, "hidden_size"), positive_int(config, "vocab_size")
    tables = 1 if config.get("tie_word_embeddings") or parallelism.pipeline > 1 else 2
    vocabulary_share = ceil_div(ceil_div(vocabulary, _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE, parallelism.tensor)
    return WeightShare(
        math.ceil(_linear_weights(config, hidden, parallelism) * weight_format.bytes_per_weight),
        tables * vocabulary_share * hidden * _EMBEDDING_BYTES,
    )


def _linear_weights(config: Mapping[str, Any], hidden: int, parallelism: Parallelism) -> int:
    """The number of weights in one GPU's share of attention (query, key, value, output) and MLP (gate, up, down)."""
    share = KvShape.from_config(config).per_gpu(parallelism)
    heads = ceil_div(positive_int(config, "num_attention_heads"), parallelism.tensor)
    intermediate = ceil_div(positive_int(config, "intermediate_size"), parallelism.tensor)
    attention = hidden * share.head_dim * 2 * (heads + share.num_kv_heads)
    return share.num_layers * (attention + 3 * hidden * intermediate)
