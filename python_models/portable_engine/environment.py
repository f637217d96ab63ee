"""What the portable engine needs of the Python environment around it; imports neither torch nor transformers.

NVIDIA's images bring transformers of their own: 4.53 with TensorRT-LLM 1.0, 4.57 with 1.2.
"""

from __future__ import annotations

import importlib.metadata
import re

MIN_TRANSFORMERS = (4, 53)


def transformers_version() -> tuple[int, int] | None:
    """Major and minor of the transformers that is installed; None when there is none."""
    try:
        match = re.match(r"(\d+)\.(\d+)", importlib.metadata.version("transformers"))
    except importlib.metadata.PackageNotFoundError:
        return None
    return (int(match[1]), int(match[2])) if match else None


def unsupported_reason() -> str:
    """Why the engine can't run here, or nothing."""
    version = transformers_version()
    if version is None:
        return "there is no transformers"
    if version < MIN_TRANSFORMERS:
        return "transformers {}.{} is older than {}.{}".format(*version, *MIN_TRANSFORMERS)
    return ""
