"""The arguments and the environment with which vLLM is started."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from engine_process.engine import EngineLoadError, EngineSettings
from engine_process.engines.options import parse_options
from engine_process.engines.vllm_sampling import VLLM_BACKENDS

STATE_DIR_VARIABLE = "LLMSTACK_STATE_DIR"
CACHE_DIRECTORY = "vllm_cache"

ALLOWED = (
    # Several GPUs and several nodes
    *("tensor_parallel_size", "pipeline_parallel_size", "distributed_executor_backend", "nnodes", "node_rank"),
    *("master_addr", "master_port", "distributed_timeout_seconds", "cpu_distributed_timeout_seconds"),
    *("enable_expert_parallel", "decode_context_parallel_size", "disable_custom_all_reduce", "numa_bind"),
    # Memory
    *("gpu_memory_utilization", "kv_cache_memory_bytes", "kv_cache_dtype", "block_size", "num_gpu_blocks_override"),
    *("cpu_offload_gb", "max_model_len", "enable_prefix_caching", "prefix_caching_hash_algo"),
    # Scheduling
    *("max_num_batched_tokens", "enable_chunked_prefill", "long_prefill_token_threshold", "async_scheduling"),
    # The model and its kernels
    *("dtype", "quantization", "load_format", "safetensors_load_strategy", "max_parallel_loading_workers"),
    *("attention_backend", "linear_backend", "moe_backend", "enable_flashinfer_autotune", "enforce_eager"),
    *("optimization_level", "performance_mode", "cudagraph_capture_sizes", "max_cudagraph_capture_size", "seed"),
    "logprobs_mode",
)
"""Arguments of vLLM that an operator may set. None of them loads code, another model, or anything from a network."""

CHOICES = {
    "distributed_executor_backend": ("mp", "ray", "uni"),  # vLLM takes any class by its name
    "load_format": ("auto", "safetensors", "fastsafetensors", "sharded_state", "dummy"),
    "logprobs_mode": ("raw_logprobs", "processed_logprobs"),
}

_RELEASE = "the release has it"
_CODE = "it would load code or weights that the release's hash does not cover"
_LORA = "adapters are no part of a release"
FIXED = {
    "model": _RELEASE,
    "tokenizer": _RELEASE,
    "hf_config_path": _RELEASE,
    "structured_outputs_config": "the manifest's guidance.backend chooses the backend",
    "max_num_seqs": "it is the manifest's engine.max_batch_size, and one more for the server's canary",
    "skip_tokenizer_init": "guides need the tokenizer",
    "generation_config": "each request brings its own sampling parameters",
    "override_generation_config": "each request brings its own sampling parameters",
    "disable_log_stats": "the clocks of the requests come from vLLM's statistics",
    "enable_log_requests": "requests are not written to logs",
    "stream_interval": "every step reports its tokens",
    "trust_remote_code": _CODE,
    "logits_processors": _CODE,
    "worker_cls": _CODE,
    "worker_extension_cls": _CODE,
    "scheduler_cls": _CODE,
    "reasoning_parser_plugin": _CODE,
    "io_processor_plugin": _CODE,
    "speculative_config": _CODE,
    "hf_overrides": _CODE,
    "enable_lora": _LORA,
    "default_mm_loras": _LORA,
    "allowed_local_media_path": "prompts are tokens",
    "allowed_media_domains": "prompts are tokens",
}
"""Arguments that are set here or that nobody may set → why."""

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_PLUGINS": "",  # plugins are code of other packages
    "LLGUIDANCE_LOG_LEVEL": "0",  # its warnings quote the guide
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it compiles a kernel, which needs a CUDA toolkit
}
"""Variables that vLLM reads when it is imported; one that is set keeps its value."""


def set_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what vLLM reads at its import. Its caches go to the state directory, which is private to the user."""
    for name, value in ENVIRONMENT.items():
        environment.setdefault(name, value)
    if state_dir := environment.get(STATE_DIR_VARIABLE):
        environment.setdefault("VLLM_CACHE_ROOT", str(Path(state_dir).expanduser() / CACHE_DIRECTORY))


def engine_arguments(settings: EngineSettings, backend: str, arguments_type: type) -> dict[str, Any]:
    """The arguments of `arguments_type`, which is vLLM's dataclass AsyncEngineArgs.

    Raises:
        EngineLoadError: an option is wrong, or this vLLM lacks an argument that is needed.
    """
    annotations = {field.name: field.type for field in dataclasses.fields(arguments_type)}
    options = parse_options(settings.options, annotations, allowed=ALLOWED, fixed=FIXED, choices=CHOICES)
    own = _own_arguments(settings, backend)
    if missing := sorted(own.keys() - annotations.keys()):
        raise EngineLoadError(f"this vLLM has no arguments {', '.join(missing)}")
    return {**own, **options}


def _own_arguments(settings: EngineSettings, backend: str) -> dict[str, Any]:
    return {
        "model": str(settings.engine_dir),
        "tokenizer": str(settings.tokenizer_dir),
        "max_num_seqs": settings.max_batch_size + 1,
        "structured_outputs_config": {"backend": VLLM_BACKENDS[backend], "disable_any_whitespace": True},
        "generation_config": "vllm",
        "trust_remote_code": False,
        "disable_log_stats": False,
        "enable_log_requests": False,
    }
