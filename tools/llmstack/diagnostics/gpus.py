"""The GPUs that nvidia-smi lists, and the oldest driver for a CUDA version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import NamedTuple

_COMMAND = (
    "nvidia-smi",
    "--query-gpu=name,memory.total,memory.used,driver_version",
    "--format=csv,noheader,nounits",
)
# CUDA major version → oldest driver for any of its minor versions: NVIDIA's release notes of the CUDA Toolkit, table
# "CUDA Toolkit and Corresponding Driver Versions".
_MIN_DRIVERS = {11: 450, 12: 525, 13: 580}


class Gpu(NamedTuple):
    """One GPU. A size that nvidia-smi does not report, as for unified memory or MIG, is None."""

    name: str
    total_mib: int | None
    used_mib: int | None
    driver: str

    @property
    def free_share(self) -> float | None:
        """The free share of its memory, 0 to 1; None when unknown."""
        if not self.total_mib or self.used_mib is None:
            return None
        return 1 - self.used_mib / self.total_mib

    def __str__(self) -> str:
        free = self.free_share
        memory = "memory unknown" if free is None else f"{self.total_mib:,} MiB, {free:.0%} free"
        return f"{self.name}, {memory}"


def find_gpus() -> list[Gpu]:
    """Every GPU that nvidia-smi lists; empty when the program is missing or fails."""
    if shutil.which(_COMMAND[0]) is None:
        return []
    try:
        done = subprocess.run(_COMMAND, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    rows = ([cell.strip() for cell in line.rsplit(",", 3)] for line in done.stdout.splitlines())
    return [Gpu(row[0], _integer(row[1]), _integer(row[2]), row[3]) for row in rows if len(row) == 4]


def driver_error(gpu: Gpu, cuda_version: str | None = None) -> str:
    """Why the GPU's driver is too old for `cuda_version`, by default the image's; empty when it is not.

    Empty too when the driver or the CUDA version is unknown.
    """
    cuda = re.match(r"\d+", cuda_version or os.environ.get("CUDA_VERSION", ""))
    driver = re.match(r"\d+", gpu.driver)
    oldest = _MIN_DRIVERS.get(int(cuda[0])) if cuda else None
    if oldest is None or driver is None or int(driver[0]) >= oldest:
        return ""
    return f"driver {gpu.driver} is older than {oldest}, which CUDA {cuda[0] if cuda else ''} needs"


def _integer(cell: str) -> int | None:
    return int(cell) if cell.isdigit() else None
