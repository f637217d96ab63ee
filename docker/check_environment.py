"""Fails the image's build when the project's environment replaces a package of the base image, or can't run.

Run it with the environment's Python; arguments are further modules that must be importable. When the project is
installed, the embedded engine decodes a few tokens with a tiny model. If the base image's transformers is too old for
that engine, the script only reports it: TensorRT-LLM does not need it.

With LLMSTACK_ENGINE_PYTHON the engines run in that Python: it must find vLLM and import the engine process. numpy is
then the environment's own, because vLLM needs numpy 2 and Triton's stubs numpy 1.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

ENGINE_PYTHON = os.environ.get("LLMSTACK_ENGINE_PYTHON", "")

# The engines are built against these. Another version may break them at the first request.
BASE_IMAGE_PACKAGES = (
    "tensorrt_llm",
    "tensorrt",
    "vllm",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "triton",
    *([] if ENGINE_PYTHON else ["numpy"]),
)
REQUIRED_MODULES = (
    "torch",
    "numpy",
    "xgrammar",
    "llguidance",
    "fastokens",
    "tritonclient.grpc",
    "orjson",
    "pydantic",
    "msgspec",
)

# What the engine process of the embedded engine imports, and the model's side of it.
EMBEDDED_ENGINE = "engine_process.engines.portable"
ENGINE_MODULES = ("engine_process.server", EMBEDDED_ENGINE, "engine_process.client")


def main(modules: list[str]) -> int:
    """Print errors to standard error and return the exit status."""
    errors = [error for name in BASE_IMAGE_PACKAGES for error in _replacement_errors(name)]
    errors += [error for name in (*REQUIRED_MODULES, *modules) for error in _import_errors(name)]
    errors += _numpy_errors() if ENGINE_PYTHON else []
    if _is_installed("engine_process"):
        errors += _engine_errors()
        errors += _engine_python_errors() if ENGINE_PYTHON else []
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    for name in BASE_IMAGE_PACKAGES:
        if _is_installed(name):
            print(f"the base image's {name} {_version(name)}")
    return 1 if errors else 0


def _replacement_errors(name: str) -> list[str]:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or not Path(spec.origin).is_relative_to(sys.prefix):
        return []
    return [f"{name} {_version(name)} replaces the base image's package: {spec.origin}"]


def _import_errors(name: str) -> list[str]:
    try:
        importlib.import_module(name)
    except Exception as error:
        return [f"{name} can't be imported: {error}"]
    return []


def _numpy_errors() -> list[str]:
    version = _version("numpy")
    return [] if version.startswith("1.") else [f"numpy is {version}, but Triton's stubs need numpy 1"]


def _engine_python_errors() -> list[str]:
    """Empty when the other Python can run the engine process and finds vLLM."""
    from llmstack.diagnostics.engine_python import MODULES, EnginePythonError, read_engine_python

    try:
        python = read_engine_python((*MODULES, EMBEDDED_ENGINE))
    except EnginePythonError as error:
        return [str(error)]
    if reason := python.errors.get(EMBEDDED_ENGINE):
        print(f"the embedded engine is not available in {python.program}: {reason}. Other engines are not affected")
    errors = [
        f"{python.program} can't import {name}: {error}" for name, error in python.errors.items() if name in MODULES
    ]
    if "vllm" not in python.packages:
        errors.append(f"{python.program} does not find vllm")
    print(f"the engine's Python: {python}: {', '.join(f'{name} {text}' for name, text in python.packages.items())}")
    return errors


def _engine_errors() -> list[str]:
    """Empty when the embedded engine decodes, or when this image can't run it."""
    from portable_engine.environment import unsupported_reason

    if reason := unsupported_reason():
        print(f"the embedded engine is not available in this image: {reason}. Other engines are not affected")
        return []
    if errors := [error for module in ENGINE_MODULES for error in _import_errors(module)]:
        return errors
    try:
        num_tokens = len(_decode())
    except Exception as error:
        return [f"the embedded engine can't decode: {type(error).__name__}: {error}"]
    print(f"the embedded engine decodes {num_tokens} tokens")
    return []


def _decode() -> list[int]:
    """Decode two tokens with a randomly initialised model of two layers."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    from portable_engine.attention import GROUPED
    from portable_engine.batcher import InFlightBatcher
    from portable_engine.sequence import GenerationRequest, Sequence

    config = Qwen3Config(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation=GROUPED)
    batcher = InFlightBatcher(model.eval(), 2, lambda logits, matchers: None)
    sequence = Sequence(GenerationRequest(prompt_token_ids=[1, 2, 3], max_new_tokens=2), arrival_time_ns=0)
    batcher.add(sequence)
    while not batcher.is_idle:
        batcher.step()
    return sequence.completion_token_ids


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "without a version"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
