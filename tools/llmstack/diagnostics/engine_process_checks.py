"""Checks of the engine process: the Python that runs it, its packages and options, and the GPUs that it needs."""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from engine_process.engines.trtllm_options import ALLOWED as TRTLLM_OPTIONS
from engine_process.engines.vllm_options import ALLOWED as VLLM_OPTIONS
from llmstack.capacity.memory_plan import Parallelism
from llmstack.diagnostics.check_result import CheckResult, CheckStatus
from llmstack.diagnostics.deployment import Deployment
from llmstack.diagnostics.engine_python import EnginePython, EnginePythonError, read_engine_python
from llmstack.diagnostics.gpus import find_gpus
from llmstack.diagnostics.image_tag import MIN_VLLM_VERSION, VLLM_VERSION, parse_version
from llmstack.server.command import ENGINES
from llmstack.server.engine_process import ENGINE_PYTHON
from llmstack.server.error import ServerStartError
from llmstack.server.release import parse_engine_options

TENSOR_PARALLEL, PIPELINE_PARALLEL, NODES = "tensor_parallel_size", "pipeline_parallel_size", "nnodes"
_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


class EnginePackage(NamedTuple):
    """What an engine needs in its Python: packages, the versions that it works with, and the options that it takes.

    The version is that of the first package. The adapter is written for `version`; older ones than `oldest` can't be
    used.
    """

    packages: tuple[str, ...]
    version: tuple[int, int] | None = None
    oldest: tuple[int, int] = (0, 0)
    options: tuple[str, ...] = ()


PACKAGES = {
    "embedded": EnginePackage(("torch", "transformers")),
    "echo": EnginePackage(()),
    "vllm": EnginePackage(("vllm",), VLLM_VERSION, MIN_VLLM_VERSION, VLLM_OPTIONS),
    "trtllm-api": EnginePackage(("tensorrt_llm",), (1, 2), (1, 0), TRTLLM_OPTIONS),
}


def check_engine_process(deployment: Deployment) -> CheckResult:
    """Whether the engine's Python starts and finds the engine, in a version that the adapter is written for."""
    name = "engine process"
    if not ENGINES[deployment.engine].has_process:
        return CheckResult(name, CheckStatus.SKIPPED, f"{deployment.engine} runs in tritonserver")
    next_step = f"let {ENGINE_PYTHON} name a Python with msgspec and the engine's packages"
    try:
        python = read_engine_python()
    except EnginePythonError as error:
        return CheckResult(name, CheckStatus.FAIL, str(error), next_step)
    needed = PACKAGES[deployment.engine]
    if errors := _python_errors(python, needed):
        return CheckResult(name, CheckStatus.FAIL, f"{python}: {'; '.join(errors)}", next_step)
    text = ", ".join([str(python), *(f"{package} {version}" for package, version in python.packages.items())])
    if warning := _version_warning(python, needed):
        return CheckResult(name, CheckStatus.WARN, f"{text}; {warning}", "llmstack bench gate shows whether it answers")
    return CheckResult(name, CheckStatus.OK, text)


def _python_errors(python: EnginePython, needed: EnginePackage) -> list[str]:
    errors = [f"can't import {module}: {error}" for module, error in python.errors.items()]
    errors += [f"does not find {package}" for package in needed.packages if package not in python.packages]
    version = _version(python, needed)
    if version is not None and version < needed.oldest:
        errors.append("{} before {}.{} is not supported".format(needed.packages[0], *needed.oldest))
    return errors


def _version_warning(python: EnginePython, needed: EnginePackage) -> str:
    if needed.version is None or _version(python, needed) == needed.version:
        return ""
    return "the adapter is written for {} {}.{}, others are untested".format(needed.packages[0], *needed.version)


def _version(python: EnginePython, needed: EnginePackage) -> tuple[int, int] | None:
    return parse_version(python.packages.get(needed.packages[0], "")) if needed.packages else None


def check_engine_options(deployment: Deployment) -> CheckResult:
    """Whether the engine takes its options, and whether there are as many GPUs as they ask for."""
    name = "engine options"
    try:
        options = parse_engine_options(deployment.engine_options)
        parallelism, nodes = read_parallelism(options), _positive_int(options, NODES)
    except ServerStartError as error:
        return CheckResult(name, CheckStatus.FAIL, str(error), error.next_step)
    known = PACKAGES[deployment.engine].options if deployment.engine in PACKAGES else ()
    if unknown := sorted(options.keys() - set(known)):
        similar = [key for wrong in unknown for key in difflib.get_close_matches(wrong, known, n=1)]
        next_step = f"did you mean {', '.join(similar)}?" if similar else "leave it out"
        text = f"{deployment.engine} takes no option {', '.join(unknown)}"
        return CheckResult(name, CheckStatus.FAIL, text, next_step)
    if not known:
        return CheckResult(name, CheckStatus.SKIPPED, f"{deployment.engine} has none")
    return _check_parallelism(name, deployment, parallelism, nodes, options)


def _check_parallelism(
    name: str, deployment: Deployment, parallelism: Parallelism, nodes: int, options: Mapping[str, str]
) -> CheckResult:
    """Whether this machine's GPUs suffice for its share of the engine's ranks, and the attention heads can be split."""
    tensor, pipeline = parallelism
    heads = _num_attention_heads(deployment.release_dir)
    if heads and heads % tensor:
        text = f"{TENSOR_PARALLEL}={tensor} does not divide the model's {heads} attention heads"
        return CheckResult(name, CheckStatus.FAIL, text, "give a size that divides them")
    needed, present = math.ceil(parallelism.num_gpus / nodes), _num_visible_gpus()
    text = f"{needed} of {present} GPUs: {TENSOR_PARALLEL}={tensor} × {PIPELINE_PARALLEL}={pipeline}"
    text += f" on {nodes} nodes" if nodes > 1 else ""
    if needed > present:
        # Ray places ranks on other machines too.
        is_fatal = options.get("distributed_executor_backend") != "ray"
        status = CheckStatus.FAIL if is_fatal else CheckStatus.WARN
        return CheckResult(name, status, text, f"give the container more GPUs ({_VISIBLE_GPUS}), or smaller sizes")
    return CheckResult(name, CheckStatus.OK, text)


def read_parallelism(options: Mapping[str, str]) -> Parallelism:
    """How the engine's options split its model.

    Raises:
        ServerStartError: a size is not an integer of 1 or more.
    """
    return Parallelism(_positive_int(options, TENSOR_PARALLEL), _positive_int(options, PIPELINE_PARALLEL))


def _positive_int(options: Mapping[str, str], key: str) -> int:
    text = options.get(key, "1")
    if not text.isdecimal() or int(text) < 1:
        raise ServerStartError(f"{key}={text} is not an integer of 1 or more", f"--engine-option {key}=2, for example")
    return int(text)


def _num_visible_gpus() -> int:
    """The number of GPUs that a process sees: nvidia-smi lists all, whatever CUDA_VISIBLE_DEVICES names."""
    present = len(find_gpus())
    visible = os.environ.get(_VISIBLE_GPUS)
    return present if visible is None else min(present, len([gpu for gpu in visible.split(",") if gpu.strip()]))


def _num_attention_heads(release_dir: Path) -> int | None:
    """None when the release's model says nothing readable about it, which other checks report."""
    try:
        heads = json.loads((release_dir / "engine" / "config.json").read_bytes())["num_attention_heads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return heads if isinstance(heads, int) and heads > 0 else None
