"""Hardware and versions of the machine; results of different machines can't be compared."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "xgrammar")


def describe_machine() -> dict[str, Any]:
    """Processor, GPU and versions of this machine, where the engine runs too."""
    import torch  # takes seconds

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu and gpu.name,
        "gpu_gib": gpu and round(gpu.total_memory / (1 << 30), 1),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
