"""Fails the image's build when the project's environment would replace what the image brings, or could not run.

Run by the environment's own Python; arguments are further modules that it must be able to import. With the project
among them the embedded engine decodes a token of a tiny model. Where the image's transformers is too old for that
engine it says so: TensorRT-LLM's needs none of it.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

# The engine's world: one of them replaced, and TensorRT-LLM or the model behind it may break at the first request.
THE_IMAGES_OWN = ("tensorrt_llm", "tensorrt", "torch", "transformers", "tokenizers", "safetensors", "numpy", "triton")
NEEDED = ("torch", "numpy", "xgrammar", "fastokens", "tritonclient.grpc", "orjson", "pydantic")

# What `portable_engine.triton_model` is made of; itself it loads only in a stub.
ENGINE_PARTS = ("batcher", "engine_loop", "grammar", "loader", "sequence", "tensors")


def main(modules: list[str]) -> int:
    """The exit status; faults go to standard error."""
    faults = [fault for name in THE_IMAGES_OWN for fault in _replaced(name)]
    faults += [fault for name in (*NEEDED, *modules) for fault in _missing(name)]
    if _is_there("portable_engine"):
        faults += _engine_faults()
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    for name in THE_IMAGES_OWN:
        if _is_there(name):
            print(f"the image's {name} {_version(name)}")
    return 1 if faults else 0


def _replaced(name: str) -> list[str]:
    spec = importlib.util.find_spec(name)
    inside = spec is not None and spec.origin is not None and Path(spec.origin).is_relative_to(sys.prefix)
    return [f"{name} {_version(name)} was installed over the image's own: {spec.origin}"] if inside and spec else []


def _missing(name: str) -> list[str]:
    try:
        importlib.import_module(name)
    except Exception as error:
        return [f"{name} can't be imported: {error}"]
    return []


def _engine_faults() -> list[str]:
    """Nothing when the embedded engine decodes, or can't be expected to."""
    from portable_engine.environment import unsupported_reason

    if lack := unsupported_reason():
        print(f"the embedded engine is not available in this image: {lack}. TensorRT-LLM's is not concerned")
        return []
    if faults := [fault for part in ENGINE_PARTS for fault in _missing(f"portable_engine.{part}")]:
        return faults
    try:
        num_tokens = len(_decode())
    except Exception as error:
        return [f"the embedded engine can't decode: {type(error).__name__}: {error}"]
    print(f"the embedded engine decodes {num_tokens} tokens")
    return []


def _decode() -> list[int]:
    """Two tokens of a model of two layers."""
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


def _is_there(name: str) -> bool:
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
