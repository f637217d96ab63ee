"""The arguments and the environment with which TensorRT-LLM's LLM is started."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

from engine_process.engine import EngineLoadError, EngineSettings
from engine_process.engines.options import parse_options
from engine_process.engines.trtllm_sampling import CPP_SAMPLER, TORCH_SAMPLER

KV_CACHE = "kv_cache_config"
"""Arguments of the KV cache are options with this prefix and a dot."""

ALLOWED = (
    *("tensor_parallel_size", "pipeline_parallel_size", "moe_expert_parallel_size", "gpus_per_node"),
    *("max_seq_len", "max_num_tokens", "enable_chunked_prefill", "dtype", "load_format", "attn_backend"),
    *("sampler_type", "disable_overlap_scheduler"),
    *(f"{KV_CACHE}.{name}" for name in ("free_gpu_memory_fraction", "max_tokens", "enable_block_reuse", "dtype")),
    f"{KV_CACHE}.host_cache_size",
)
"""Arguments of the LLM that an operator may set. None of them loads code or another model."""

CHOICES = {"load_format": ("auto", "dummy"), "sampler_type": (CPP_SAMPLER, TORCH_SAMPLER)}

_RELEASE = "the release has it"
_CODE = "it would load code or weights that the release's hash does not cover"
FIXED = {
    "model": _RELEASE,
    "tokenizer": _RELEASE,
    "guided_decoding_backend": "the manifest's guidance.backend chooses the backend",
    "max_batch_size": "it is the manifest's engine.max_batch_size, and one more for the server's canary",
    "skip_tokenizer_init": "guides need the tokenizer",
    "return_perf_metrics": "the clocks of the requests come from it",
    "stream_interval": "every step reports its tokens",
    "backend": "this engine is the PyTorch one",
    "trust_remote_code": _CODE,
    "batched_logits_processor": _CODE,
    "speculative_config": _CODE,
    "lora_config": "adapters are no part of a release",
    "enable_lora": "adapters are no part of a release",
}
"""Arguments that are set here or that nobody may set → why."""

ENVIRONMENT = {"TRTLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def set_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what TensorRT-LLM reads at its import; a variable that is set keeps its value."""
    for name, value in ENVIRONMENT.items():
        environment.setdefault(name, value)


def read_model_size(engine_dir: Path) -> tuple[int, int]:
    """(vocabulary, longest sequence) in tokens, from the model's config.json.

    Raises:
        EngineLoadError: the file can't be read or lacks them.
    """
    try:
        config = json.loads((engine_dir / "config.json").read_bytes())
        return int(config["vocab_size"]), int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineLoadError(f"the model's config.json can't be read: {type(error).__name__}: {error}") from None


def engine_arguments(
    settings: EngineSettings, backend: str, max_seq_len: int, fields: Mapping[str, Any], kv_cache_type: Any
) -> dict[str, Any]:
    """The arguments of `tensorrt_llm.LLM`.

    `fields` are the types of its arguments (TorchLlmArgs), `kv_cache_type` is the class KvCacheConfig.

    Raises:
        EngineLoadError: an option is wrong, or this TensorRT-LLM lacks an argument that is needed.
    """
    kv_cache_fields = {f"{KV_CACHE}.{name}": kind for name, kind in field_types(kv_cache_type).items()}
    types = {**fields, **kv_cache_fields}
    options = parse_options(settings.options, types, allowed=ALLOWED, fixed=FIXED, choices=CHOICES)
    kv_cache = {name.partition(".")[2]: value for name, value in options.items() if name in kv_cache_fields}
    arguments = {
        **_own_arguments(settings, backend, max_seq_len),
        **{name: value for name, value in options.items() if name not in kv_cache_fields},
        **({KV_CACHE: kv_cache_type(**kv_cache)} if kv_cache else {}),
    }
    if missing := sorted(arguments.keys() - fields.keys()):
        raise EngineLoadError(f"this TensorRT-LLM has no arguments {', '.join(missing)}")
    return arguments


def field_types(model: Any) -> dict[str, Any]:
    """The types of a pydantic model's fields."""
    return {name: field.annotation for name, field in model.model_fields.items()}


def _own_arguments(settings: EngineSettings, backend: str, max_seq_len: int) -> dict[str, Any]:
    return {
        "model": str(settings.engine_dir),
        "tokenizer": str(settings.tokenizer_dir),
        "max_batch_size": settings.max_batch_size + 1,
        "max_seq_len": max_seq_len,
        "enable_chunked_prefill": True,  # a prompt longer than max_num_tokens is rejected without
        "guided_decoding_backend": backend,
        "return_perf_metrics": True,
        "sampler_type": CPP_SAMPLER,
        "trust_remote_code": False,
    }
