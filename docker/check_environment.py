"""Fails the image's build when the project's environment would replace what the image brings.

Run by the environment's own Python; arguments are further modules that it must be able to import.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

# The engine's world: one of them replaced, and TensorRT-LLM or the model behind it may break at the first request.
THE_IMAGES_OWN = ("tensorrt_llm", "tensorrt", "torch", "transformers", "tokenizers", "safetensors", "numpy", "triton")
NEEDED = ("torch", "transformers", "numpy", "xgrammar", "fastokens", "tritonclient.grpc", "orjson", "pydantic")


def main(modules: list[str]) -> int:
    """The exit status; faults go to standard error."""
    faults = [fault for name in THE_IMAGES_OWN for fault in _replaced(name)]
    faults += [fault for name in (*NEEDED, *modules) for fault in _missing(name)]
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
