"""Hardware and versions of the machine; results of different machines can't be compared."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmstack.diagnostics.gpus import find_gpus

_PACKAGES = ("torch", "transformers", "xgrammar", "llguidance")


def describe_machine() -> dict[str, Any]:
    """Processor, GPUs and versions of this machine. Packages that this Python lacks are left out."""
    gpus = find_gpus()
    versions = {package: _version(package) for package in _PACKAGES}
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpus[0].name if gpus else None,
        "num_gpus": len(gpus),
        "gpu_gib": round(gpus[0].total_mib / 1024, 1) if gpus and gpus[0].total_mib else None,
        "driver": gpus[0].driver if gpus else None,
        "python": platform.python_version(),
        **{package: version for package, version in versions.items() if version},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
