"""A local Hugging Face causal language model, ready to decode."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from portable_engine.attention import GROUPED
from portable_engine.environment import transformers_version
from portable_engine.rms_norm import fuse_norms
from portable_engine.skinny_linear import make_linears_skinny

DEVICE = "LLMSTACK_ENGINE_DEVICE"
DTYPE = "LLMSTACK_ENGINE_DTYPE"
RANDOM_WEIGHTS = "LLMSTACK_ENGINE_RANDOM_WEIGHTS"
_SEED = 0
# Its name before transformers 4.56, which some of NVIDIA's images bring.
DTYPE_ARGUMENT = "dtype" if (transformers_version() or (0, 0)) >= (4, 56) else "torch_dtype"


def choose_device() -> torch.device:
    """`$LLMSTACK_ENGINE_DEVICE` (cpu, cuda, …), else a GPU where there is one."""
    return torch.device(os.environ.get(DEVICE) or ("cuda" if torch.cuda.is_available() else "cpu"))


def choose_dtype(device: torch.device) -> torch.dtype:
    """`$LLMSTACK_ENGINE_DTYPE` (float32, bfloat16, …), else float32 on a CPU, where bf16 is slow, and bfloat16."""
    named = os.environ.get(DTYPE)
    if named is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, named, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{DTYPE} is {named!r}, allowed are names of torch data types such as bfloat16")
    return dtype


def load_model(directory: Path) -> Any:
    """The model at `directory` (config.json and safetensors), for inference. Nothing is fetched or executed.

    With `$LLMSTACK_ENGINE_RANDOM_WEIGHTS` set to 1 and no safetensors, a model of the configuration's shape whose
    weights are drawn on the device: for measurements, its answers mean nothing.

    Raises:
        OSError: no such model.
    """
    device = choose_device()
    dtype = choose_dtype(device)
    has_weights = any(directory.glob("*.safetensors"))
    if os.environ.get(RANDOM_WEIGHTS) == "1" and not has_weights:
        model = _random_model(directory, device, dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=GROUPED,
            **{DTYPE_ARGUMENT: dtype},
        )
    if device.type == "cpu":
        # A small model's steps are shorter than waking more threads; on busy cores OpenMP's waiting makes it collapse.
        torch.set_num_threads(1)
        make_linears_skinny(model)
    fuse_norms(model)
    return model.to(device).eval()


def _random_model(directory: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Weights are made where they stay: 65 GB would take minutes through the host's memory."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    torch.manual_seed(_SEED)
    with device:
        return AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, attn_implementation=GROUPED, **{DTYPE_ARGUMENT: dtype}
        )
