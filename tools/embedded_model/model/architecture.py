"""The architecture of the model: Qwen3ForCausalLM in two sizes, its config.json and the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from embedded_model.model.tokenizer import EOS, MAX_LENGTH, PAD, VOCAB_SIZE, added_ids


class Architecture(NamedTuple):
    """The sizes of a Qwen3ForCausalLM with a tied output layer."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int


# For tests, so as small as possible.
RANDOM = Architecture(hidden=128, layers=4, heads=4, kv_heads=2, head_dim=32, intermediate=384)
# 7.6 million parameters: 15.2 MB in bfloat16.
TRAINED = Architecture(hidden=320, layers=6, heads=10, kv_heads=5, head_dim=32, intermediate=768)


def model_config(architecture: Architecture, tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of config.json."""
    ids = added_ids(tokenizer)
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": ids[PAD],
        "eos_token_id": ids[EOS],
        "head_dim": architecture.head_dim,
        "hidden_act": "silu",
        "hidden_size": architecture.hidden,
        "initializer_range": 0.02,
        "intermediate_size": architecture.intermediate,
        "max_position_embeddings": MAX_LENGTH,
        "max_window_layers": architecture.layers,
        "model_type": "qwen3",
        "num_attention_heads": architecture.heads,
        "num_hidden_layers": architecture.layers,
        "num_key_value_heads": architecture.kv_heads,
        "pad_token_id": ids[PAD],
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
    }


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Tensor name → shape, for a model with this config.json."""
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
