"""The portable engine's requirements on the Python environment. Imports neither torch nor transformers.

NVIDIA's images bring their own transformers: 4.53 with TensorRT-LLM 1.0, 4.57 with 1.2.
"""

from __future__ import annotations

import importlib.metadata
import re

MIN_TRANSFORMERS = (4, 53)


def transformers_version() -> tuple[int, int] | None:
    """Major and minor version of the installed transformers; None if it is not installed."""
    try:
        match = re.match(r"(\d+)\.(\d+)", importlib.metadata.version("transformers"))
    except importlib.metadata.PackageNotFoundError:
        return None
    return (int(match[1]), int(match[2])) if match else None


def unsupported_reason() -> str:
    """Why the engine can't run in this environment; empty if it can."""
    version = transformers_version()
    if version is None:
        return "transformers is not installed"
    if version < MIN_TRANSFORMERS:
        return "transformers {}.{} is older than {}.{}".format(*version, *MIN_TRANSFORMERS)
    return ""
