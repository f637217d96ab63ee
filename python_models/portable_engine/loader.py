"""Loads a local Hugging Face causal language model for decoding."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from portable_engine.attention import GROUPED
from portable_engine.environment import transformers_version
from portable_engine.qwen3_decoder import Qwen3Decoder, is_plain_qwen3
from portable_engine.rms_norm import fuse_rms_norms
from portable_engine.skinny_linear import replace_linears

DEVICE = "LLMSTACK_ENGINE_DEVICE"
DTYPE = "LLMSTACK_ENGINE_DTYPE"
RANDOM_WEIGHTS = "LLMSTACK_ENGINE_RANDOM_WEIGHTS"
THREADS = "LLMSTACK_ENGINE_THREADS"
SMALL_MODEL_PARAMETERS = 50_000_000
_SEED = 0
# transformers renamed this argument in 4.56; some of NVIDIA's images bring an older version.
DTYPE_ARGUMENT = "dtype" if (transformers_version() or (0, 0)) >= (4, 56) else "torch_dtype"


def choose_device() -> torch.device:
    """`$LLMSTACK_ENGINE_DEVICE` (cpu, cuda, …); by default a GPU if there is one, else the CPU.

    Raises:
        ValueError: torch has no such device on this machine.
    """
    name = os.environ.get(DEVICE) or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError):  # AssertionError: a torch build without CUDA
        raise ValueError(f"{DEVICE} is {name!r}, but torch has no such device on this machine") from None


def choose_dtype(device: torch.device) -> torch.dtype:
    """`$LLMSTACK_ENGINE_DTYPE` (float32, bfloat16, …); by default float32 on a CPU, where bf16 is slow, else bfloat16.

    Raises:
        ValueError: not a torch data type.
    """
    name = os.environ.get(DTYPE)
    if name is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{DTYPE} is {name!r}, expected the name of a torch data type such as bfloat16")
    return dtype


def choose_num_threads(num_parameters: int) -> int:
    """`$LLMSTACK_ENGINE_THREADS`; by default one for a small model and one per core for a larger one.

    A step of a small model is shorter than the time to wake more threads, and on busy cores OpenMP's busy waiting slows
    it down severely.

    Raises:
        ValueError: not an integer of 1 or more.
    """
    text = os.environ.get(THREADS)
    if text is None:
        return 1 if num_parameters < SMALL_MODEL_PARAMETERS else len(os.sched_getaffinity(0))
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{THREADS} is {text!r}, expected an integer of 1 or more")
    return int(text)


def load_model(directory: Path) -> Any:
    """The model at `directory` (config.json and safetensors), for inference. Downloads and executes nothing.

    If `$LLMSTACK_ENGINE_RANDOM_WEIGHTS` is 1 and there are no safetensors, the model has the configuration's shape and
    random weights, generated on the device. It serves measurements; its output is meaningless.

    Raises:
        OSError: there is no model at `directory`.
        ValueError: an environment variable has an invalid value.
    """
    if not (directory / "config.json").is_file():  # transformers would search the Hugging Face cache and hub
        raise FileNotFoundError(f"no config.json in {directory}")
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
    return optimise(model)


def optimise(model: Any) -> Any:
    """A model that computes the same in fewer operations. `model` must not be used afterwards."""
    if is_plain_qwen3(model.config):
        model = Qwen3Decoder(model)
    fuse_rms_norms(model)
    if model.device.type == "cpu":
        replace_linears(model)
    return model


def _random_model(directory: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Weights are generated on the device: copying 65 GB from host memory would take minutes."""
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    torch.manual_seed(_SEED)
    with device:
        return AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, attn_implementation=GROUPED, **{DTYPE_ARGUMENT: dtype}
        )
