"""A local Hugging Face causal language model, ready to decode."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

DEVICE = "LLMSTACK_ENGINE_DEVICE"
DTYPE = "LLMSTACK_ENGINE_DTYPE"


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

    Raises:
        OSError: no such model.
    """
    device = choose_device()
    model = AutoModelForCausalLM.from_pretrained(
        directory,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=choose_dtype(device),
        attn_implementation="sdpa",
    )
    if device.type == "cpu":
        # A small model's steps are shorter than waking more threads; on busy cores OpenMP's waiting makes it collapse.
        torch.set_num_threads(1)
    return model.to(device).eval()
