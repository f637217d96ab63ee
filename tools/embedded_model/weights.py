"""The embedded release's engine: a small Qwen3ForCausalLM, written without torch.

Random weights are drawn evenly from an interval by a generator whose stream is frozen, and rounded to bfloat16 by
integer arithmetic, so that one seed gives the same bytes on every machine and with every library version.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Architecture(NamedTuple):
    """The sizes of a Qwen3ForCausalLM with a tied output layer."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int


# Random weights show plumbing: the smaller the better.
RANDOM = Architecture(hidden=128, layers=4, heads=4, kv_heads=2, head_dim=32, intermediate=384)
# 7.6 million parameters, 15.2 MB in bfloat16.
TRAINED = Architecture(hidden=320, layers=6, heads=10, kv_heads=5, head_dim=32, intermediate=768)

# Standard deviations and norm weights, chosen so that the answer depends on the whole prompt and not only on the last
# token: the layers outweigh the embedding in the residual stream, and attention is sharp. An engine that mixes up
# requests or loses its cache then says something else.
_EMBEDDING_STD = 0.18
_LAYER_STD = 0.10
_ATTENTION_NORM = 1.75
# Control tokens hardly ever win, except the one that ends an answer: about once in a hundred tokens.
_CONTROL_SCALE = 0.05
_EOS_SCALE = 1.5

# Half the width of the interval whose standard deviation is 1.
_WIDTH_OF_STD = 3.0**0.5

BFloat16 = npt.NDArray[np.uint16]


def write_engine(directory: Path, config: dict[str, Any], weights: bytes) -> None:
    """Write config.json, generation_config.json and model.safetensors to `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", config)
    tokens = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(directory / "generation_config.json", tokens)
    (directory / "model.safetensors").write_bytes(weights)


def random_tensors(config: Mapping[str, Any], added_ids: Collection[int], seed: int) -> dict[str, BFloat16]:
    """Weights of `RANDOM` sizes, drawn from `seed`; `added_ids` are the control tokens', which hardly ever win."""
    scales = np.ones(config["vocab_size"], np.float32)
    scales[list(added_ids)] = _CONTROL_SCALE
    scales[config["eos_token_id"]] = _EOS_SCALE
    return {name: _to_bfloat16(values) for name, values in _weights(scales, seed)}


def _weights(embedding_scales: npt.NDArray[np.float32], seed: int) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    random = np.random.RandomState(seed)  # its stream is frozen, that of Generator is not

    def draw(std: float, *shape: int) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float64] = (random.random_sample(shape) * 2.0 - 1.0) * (std * _WIDTH_OF_STD)
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


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Tensor name → shape of a model with this config.json."""
    hidden, intermediate, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = {
        "input_layernorm.weight": [hidden],
        "self_attn.q_proj.weight": [queries, hidden],
        "self_attn.k_proj.weight": [keys, hidden],
        "self_attn.v_proj.weight": [keys, hidden],
        "self_attn.o_proj.weight": [hidden, queries],
        "self_attn.q_norm.weight": [head],
        "self_attn.k_norm.weight": [head],
        "post_attention_layernorm.weight": [hidden],
        "mlp.gate_proj.weight": [intermediate, hidden],
        "mlp.up_proj.weight": [intermediate, hidden],
        "mlp.down_proj.weight": [hidden, intermediate],
    }
    layers = range(config["num_hidden_layers"])
    return {
        "model.embed_tokens.weight": [config["vocab_size"], hidden],
        **{f"model.layers.{number}.{name}": shape for number in layers for name, shape in layer.items()},
        "model.norm.weight": [hidden],
    }


def _to_bfloat16(values: npt.NDArray[np.float32]) -> BFloat16:
    """The upper half of each float32, rounded to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def safetensors(tensors: Mapping[str, BFloat16]) -> bytes:
    """The safetensors file: length of the header, header padded to eight bytes, then the tensors' bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, values in tensors.items():
        end = offset + values.nbytes
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(values.tobytes() for values in tensors.values())


def model_config(size: Architecture, vocab_size: int, max_positions: int, eos: int, pad: int) -> dict[str, Any]:
    """config.json of a model of this size; `eos` and `pad` are ids of control tokens."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": pad,
        "eos_token_id": eos,
        "head_dim": size.head_dim,
        "hidden_act": "silu",
        "hidden_size": size.hidden,
        "initializer_range": 0.02,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": max_positions,
        "max_window_layers": size.layers,
        "model_type": "qwen3",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "pad_token_id": pad,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocab_size,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_bytes((json.dumps(value, indent=2) + "\n").encode())
