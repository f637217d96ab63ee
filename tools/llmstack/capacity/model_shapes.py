"""The configurations of the models that the stack supports, and of any other from its config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmstack.capacity.memory_plan import CapacityError

QWEN3_32B: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "initializer_range": 0.02,
    "intermediate_size": 25600,
    "max_position_embeddings": 40960,
    "max_window_layers": 64,
    "model_type": "qwen3",
    "num_attention_heads": 64,
    "num_hidden_layers": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
"""https://huggingface.co/Qwen/Qwen3-32B/blob/main/config.json"""

SHAPES = {"Qwen3-32B": QWEN3_32B}

W4A8: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": 128,
                "dynamic": False,
            },
            "input_activations": {
                "num_bits": 8,
                "type": "float",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}
"""A `quantization_config` of compressed-tensors: 4-bit integer weights in groups of 128, 8-bit float activations."""


def read_config(model: str) -> Mapping[str, Any]:
    """The configuration of a model in `SHAPES`, or the config.json at the path `model` or in that directory.

    Raises:
        CapacityError: `model` is neither.
    """
    if model in SHAPES:
        return SHAPES[model]
    path = Path(model) / "config.json" if Path(model).is_dir() else Path(model)
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        known = ", ".join(SHAPES)
        raise CapacityError(
            f"{path}: {error.strerror}; --model takes a known shape ({known}), a config.json, or a directory with one"
        ) from None
    except ValueError:
        raise CapacityError(f"{path} is not JSON") from None
    if not isinstance(config, dict):
        raise CapacityError(f"{model} does not contain a JSON object")
    return config
