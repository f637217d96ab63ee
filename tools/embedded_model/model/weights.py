"""Writes the engine directory and random weights, without torch.

Random weights are uniform, from NumPy's legacy generator with its frozen stream, and are rounded to bfloat16 by integer
arithmetic, so that a seed gives the same bytes on every machine and with every library version.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedded_model.model.architecture import RANDOM

# Standard deviations and norm weights, chosen so that the answer depends on the whole prompt and not only on the last
# token: the layers outweigh the embedding in the residual stream, and attention is sharp. An engine that mixes up
# requests or loses its cache then gives another answer.
_EMBEDDING_STD = 0.18
_LAYER_STD = 0.10
_ATTENTION_NORM = 1.75
# Control tokens are hardly ever sampled, except the one that ends an answer: about once in a hundred tokens.
_CONTROL_SCALE = 0.05
_EOS_SCALE = 1.5

# Half the width of the uniform distribution whose standard deviation is 1.
_HALF_WIDTH_OF_STD = 3.0**0.5

BFloat16 = npt.NDArray[np.uint16]


def write_engine(directory: Path, config: dict[str, Any], weights: bytes) -> None:
    """Write config.json, generation_config.json and model.safetensors to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", config)
    tokens = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(directory / "generation_config.json", tokens)
    (directory / "model.safetensors").write_bytes(weights)


def random_tensors(config: Mapping[str, Any], added_ids: Collection[int], seed: int) -> dict[str, BFloat16]:
    """Random weights of the `RANDOM` architecture. `added_ids` are the ids of control tokens."""
    scales = np.ones(config["vocab_size"], np.float32)
    scales[list(added_ids)] = _CONTROL_SCALE
    scales[config["eos_token_id"]] = _EOS_SCALE
    return {name: _to_bfloat16(values) for name, values in _random_weights(scales, seed)}


def _random_weights(
    embedding_scales: npt.NDArray[np.float32], seed: int
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    random = np.random.RandomState(seed)  # unlike Generator, its stream never changes

    def draw(std: float, *shape: int) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float64] = (random.random_sample(shape) * 2.0 - 1.0) * (std * _HALF_WIDTH_OF_STD)
        return values.astype(np.float32)

    hidden, layers, heads, kv_heads, head_dim, intermediate = RANDOM
    ones, attention = np.ones(hidden, np.float32), np.full(head_dim, _ATTENTION_NORM, np.float32)
    yield "model.embed_tokens.weight", draw(_EMBEDDING_STD, len(embedding_scales), hidden) * embedding_scales[:, None]
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", ones
        yield prefix + "self_attn.q_proj.weight", draw(_LAYER_STD, heads * head_dim, hidden)
        yield prefix + "self_attn.k_proj.weight", draw(_LAYER_STD, kv_heads * head_dim, hidden)
        yield prefix + "self_attn.v_proj.weight", draw(_LAYER_STD, kv_heads * head_dim, hidden)
        yield prefix + "self_attn.o_proj.weight", draw(_LAYER_STD, hidden, heads * head_dim)
        yield prefix + "self_attn.q_norm.weight", attention
        yield prefix + "self_attn.k_norm.weight", attention
        yield prefix + "post_attention_layernorm.weight", ones
        yield prefix + "mlp.gate_proj.weight", draw(_LAYER_STD, intermediate, hidden)
        yield prefix + "mlp.up_proj.weight", draw(_LAYER_STD, intermediate, hidden)
        yield prefix + "mlp.down_proj.weight", draw(_LAYER_STD, hidden, intermediate)
    yield "model.norm.weight", ones


def _to_bfloat16(values: npt.NDArray[np.float32]) -> BFloat16:
    """The upper half of each float32, rounded to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def safetensors(tensors: Mapping[str, BFloat16]) -> bytes:
    """A safetensors file: the length of the header, the header padded to eight bytes, the tensors' bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, values in tensors.items():
        end = offset + values.nbytes
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(values.tobytes() for values in tensors.values())


def _write_json(path: Path, value: Any) -> None:
    path.write_bytes((json.dumps(value, indent=2) + "\n").encode())
