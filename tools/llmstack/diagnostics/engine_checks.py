"""Checks of the engine and what it needs: image, server, GPU, model files and release. They change nothing."""

from __future__ import annotations

import os
from pathlib import Path

from llm_policy.release.release import Release, ReleaseError
from llmstack.capacity.memory_plan import CapacityError, MemoryPlan
from llmstack.diagnostics.check_result import CheckResult, CheckStatus
from llmstack.diagnostics.deployment import Deployment
from llmstack.diagnostics.engine_process_checks import read_parallelism
from llmstack.diagnostics.gpu_memory import HEADROOM, plan_memory
from llmstack.diagnostics.gpus import Gpu, driver_error, find_gpus
from llmstack.diagnostics.image_tag import VLLM_SUFFIX, current_image_tag
from llmstack.server.binary import find_server_binary
from llmstack.server.command import ENGINES
from llmstack.server.error import ServerStartError
from llmstack.server.release import parse_engine_options
from portable_engine.environment import unsupported_reason

MIN_FREE_GPU_MEMORY = 0.25
_GPU_ENGINES = ("tensorrtllm", "vllm", "trtllm-api")
# The files that model_repository/tensorrt_llm/config.pbtxt points TensorRT-LLM to.
TENSORRT_MOUNTS = tuple(
    Path("/workspace") / name
    for name in ("engine/config.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_info.json")
)


def check_image(deployment: Deployment) -> CheckResult:
    """Whether the image's TensorRT-LLM can serve Qwen3 with guided decoding, or whether its vLLM is a supported one."""
    tag = deployment.image or current_image_tag()
    if tag is None:
        return CheckResult("image", CheckStatus.SKIPPED, "not an NVIDIA image, or its tag is unknown")
    if deployment.engine == "vllm" or (tag.has_vllm and deployment.engine != "tensorrtllm"):
        # An engine's Python elsewhere may hold another vLLM than the image's: its own check looks there.
        is_fatal = deployment.engine == "vllm" and deployment.image is not None
        errors, warnings, features = tag.vllm_errors(), tag.vllm_warnings(), "the adapter's version"
        next_step = f"use a tag that ends in -{VLLM_SUFFIX}, from 25.11 on, 26.07 by default"
    else:
        is_fatal = deployment.engine == "tensorrtllm"
        errors, warnings, features = tag.errors(), tag.warnings(), "guided decoding, Qwen3, Blackwell"
        next_step = "use a tag from 25.09 to 26.07, 25.10 by default"
    if reasons := errors + warnings:
        status = CheckStatus.FAIL if errors and is_fatal else CheckStatus.WARN
        return CheckResult("image", status, f"{tag.description}: {'; '.join(reasons)}", next_step)
    return CheckResult("image", CheckStatus.OK, f"{tag.description}: {features}")


def check_engine(deployment: Deployment) -> CheckResult:
    """Whether the packages of the embedded engine are installed; other engines bring their own."""
    if deployment.engine != "embedded":
        return CheckResult("engine", CheckStatus.OK, deployment.engine)
    if reason := unsupported_reason():
        text = f"embedded: {reason}, so this engine is not available here; TensorRT-LLM is not affected"
        next_step = "--engine tensorrtllm with a TensorRT engine, or a newer image"
        return CheckResult("engine", CheckStatus.FAIL, text, next_step)
    return CheckResult("engine", CheckStatus.OK, "embedded")


def check_server(deployment: Deployment) -> CheckResult:
    """Whether tritonserver is installed with the engine's backend."""
    backend = ENGINES[deployment.engine].backend
    try:
        binary = find_server_binary()
        binary.check_backend(backend)
    except ServerStartError as error:
        return CheckResult("server", CheckStatus.FAIL, str(error), error.next_step)
    return CheckResult("server", CheckStatus.OK, f"{binary.path}, backend {backend}")


def check_gpu(deployment: Deployment) -> CheckResult:
    """Every GPU: its driver and its free memory."""
    needs_gpu = deployment.engine in _GPU_ENGINES
    gpus = find_gpus()
    if not gpus:
        text = "no NVIDIA GPU found"
        if not needs_gpu:
            return CheckResult("gpu", CheckStatus.SKIPPED, text)
        return CheckResult("gpu", CheckStatus.FAIL, text, "give the container GPUs: --gpus all")
    text = f"{'; '.join(map(str, gpus))}; driver {gpus[0].driver}"
    if error := driver_error(gpus[0]):
        # Data centre GPUs can run a newer CUDA than their driver's, with the compatibility package in NVIDIA's images.
        is_fatal = needs_gpu and any("GeForce" in gpu.name for gpu in gpus)
        status = CheckStatus.FAIL if is_fatal else CheckStatus.WARN
        return CheckResult("gpu", status, f"{text}; {error}", "install a newer driver on the host")
    if needs_gpu and any(_is_nearly_full(gpu) for gpu in gpus):
        return CheckResult("gpu", CheckStatus.WARN, text, "see what else uses the GPU, and llmstack capacity")
    return CheckResult("gpu", CheckStatus.OK, text)


def _is_nearly_full(gpu: Gpu) -> bool:
    return gpu.free_share is not None and gpu.free_share < MIN_FREE_GPU_MEMORY


def check_memory(deployment: Deployment) -> CheckResult:
    """Whether the KV cache of a full batch of the largest requests fits beside the engine, with `HEADROOM` left."""
    sizes_mib = [gpu.total_mib for gpu in find_gpus() if gpu.total_mib]
    if deployment.engine not in _GPU_ENGINES or not sizes_mib:
        text = "applies to TensorRT engines, vLLM and TensorRT-LLM's API on a GPU that reports its memory"
        return CheckResult("memory", CheckStatus.SKIPPED, text)
    try:
        plan = _plan_memory(deployment, min(sizes_mib) << 20)
    except (ReleaseError, CapacityError, ServerStartError) as error:
        return CheckResult("memory", CheckStatus.WARN, str(error), "llmstack capacity --help")
    if plan is None:
        text = "the engine has several ranks, or its model's shape is unknown"
        return CheckResult("memory", CheckStatus.SKIPPED, text)
    text = (
        f"{plan.num_requests} requests of {plan.tokens_per_request:,} tokens fit beside an engine of "
        f"{plan.engine_bytes / 10**9:.1f} GB and leave {float(HEADROOM):.0%}; the batch is {plan.max_batch_size}"
    )
    if not plan.batch_fits:
        return CheckResult("memory", CheckStatus.WARN, text, "llmstack capacity")
    return CheckResult("memory", CheckStatus.OK, text)


def _plan_memory(deployment: Deployment, gpu_bytes: int) -> MemoryPlan | None:
    """The plan of one GPU. An engine in a process of its own splits its model by its options."""
    release = Release.open(deployment.release_dir)
    if not ENGINES[deployment.engine].has_process:
        return plan_memory(release, gpu_bytes)
    options = parse_engine_options(deployment.engine_options)
    return plan_memory(release, gpu_bytes, read_parallelism(options), options)


def check_mounts(deployment: Deployment) -> CheckResult:
    """Whether the model repository is readable and, for TensorRT-LLM, the files that its configuration names."""
    required = [deployment.model_repository / "ensemble" / "config.pbtxt"]
    if deployment.engine == "tensorrtllm":
        required += TENSORRT_MOUNTS
    unreadable = [str(path) for path in required if not os.access(path, os.R_OK)]
    if unreadable:
        text = f"can't be read: {', '.join(unreadable)}"
        return CheckResult("mounts", CheckStatus.FAIL, text, "docker/serve_triton.sh mounts them")
    artifacts = deployment.release_dir.absolute().parent
    text = f"{deployment.model_repository}, {artifacts}"
    if not os.access(artifacts, os.W_OK):
        text += " (read-only: no promotions here)"
    return CheckResult("mounts", CheckStatus.OK, text)


def check_release(deployment: Deployment) -> CheckResult:
    """Whether every file of the release has the hash that its manifest names."""
    try:
        release = Release.open(deployment.release_dir).verify_files()
    except ReleaseError as error:
        return CheckResult(
            "release", CheckStatus.FAIL, str(error), f"llmstack manifest verify {deployment.release_dir}"
        )
    engine = release.manifest.engine
    return CheckResult("release", CheckStatus.OK, f"{engine.model}, engine {engine.hash}")
