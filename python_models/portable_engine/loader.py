"""A local Hugging Face causal language model, ready to decode."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from portable_engine.attention import GROUPED
from portable_engine.environment import transformers_version
from portable_engine.qwen3_decoder import Qwen3Decoder, is_plain_qwen3
from portable_engine.rms_norm import fuse_norms
from portable_engine.skinny_linear import make_linears_skinny

DEVICE = "LLMSTACK_ENGINE_DEVICE"
DTYPE = "LLMSTACK_ENGINE_DTYPE"
RANDOM_WEIGHTS = "LLMSTACK_ENGINE_RANDOM_WEIGHTS"
THREADS = "LLMSTACK_ENGINE_THREADS"
SMALL_MODEL_PARAMETERS = 50_000_000
_SEED = 0
# Its name before transformers 4.56, which some of NVIDIA's images bring.
DTYPE_ARGUMENT = "dtype" if (transformers_version() or (0, 0)) >= (4, 56) else "torch_dtype"


def choose_device() -> torch.device:
    """`$LLMSTACK_ENGINE_DEVICE` (cpu, cuda, …), else a GPU where there is one.

    Raises:
        ValueError: torch has no such device here.
    """
    named = os.environ.get(DEVICE) or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=named).device
    except (RuntimeError, AssertionError):  # the second: a build without CUDA
        raise ValueError(f"{DEVICE} is {named!r}, a device that torch does not find here") from None


def choose_dtype(device: torch.device) -> torch.dtype:
    """`$LLMSTACK_ENGINE_DTYPE` (float32, bfloat16, …), else float32 on a CPU, where bf16 is slow, and bfloat16."""
    named = os.environ.get(DTYPE)
    if named is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, named, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{DTYPE} is {named!r}, allowed are names of torch data types such as bfloat16")
    return dtype


def choose_num_threads(num_parameters: int) -> int:
    """`$LLMSTACK_ENGINE_THREADS`, else one for a small model and every core for a larger one.

    A small model's steps are shorter than waking more threads; on busy cores OpenMP's waiting makes it collapse.
    """
    named = os.environ.get(THREADS)
    if named is None:
        return 1 if num_parameters < SMALL_MODEL_PARAMETERS else len(os.sched_getaffinity(0))
    if not named.isdecimal() or int(named) < 1:
        raise ValueError(f"{THREADS} is {named!r}, allowed are numbers from 1")
    return int(named)


def load_model(directory: Path) -> Any:
    """The model at `directory` (config.json and safetensors), for inference. Nothing is fetched or executed.

    With `$LLMSTACK_ENGINE_RANDOM_WEIGHTS` set to 1 and no safetensors, a model of the configuration's shape whose
    weights are drawn on the device: for measurements, its answers mean nothing.

    Raises:
        OSError: no such model.
        ValueError: an environment variable has a value that is not allowed here.
    """
    if not (directory / "config.json").is_file():  # transformers would look for it elsewhere, and say so
        raise FileNotFoundError(f"{directory} holds no config.json")
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
    model = model.to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        torch.set_num_threads(choose_num_threads(model.num_parameters()))
    return tune(model)


def tune(model: Any) -> Any:
    """`model`, or what computes the same in fewer operations; `model` itself must not be used any more."""
    if is_plain_qwen3(model.config):
        model = Qwen3Decoder(model)
    fuse_norms(model)
    if model.device.type == "cpu":
        make_linears_skinny(model)
    return model


def _random_model(directory: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Weights are made where they stay: 65 GB would take minutes through the host's memory."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    torch.manual_seed(_SEED)
    with device:
        return AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, attn_implementation=GROUPED, **{DTYPE_ARGUMENT: dtype}
        )
