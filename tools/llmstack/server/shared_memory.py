"""Removal of the shared memory of a killed server, which nothing else would free.

Each stub has a region under a name that is never reused. The names are recorded in the state directory, because the
parent process may be killed too.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_PREFIX = "/dev/shm/triton_python_backend_shm_region_"  # noqa: S108 - the kernel's path
_RECORD = "shared-memory.txt"


def record_regions(state_dir: Path, server_pid: int) -> None:
    """Record the regions that the server has mapped now."""
    try:
        lines = Path(f"/proc/{server_pid}/maps").read_text().splitlines()
    except OSError:  # it has ended: the earlier record remains valid
        return
    regions = {path for line in lines if (path := line.split()[-1]).startswith(_PREFIX)}
    if regions:
        with contextlib.suppress(OSError):  # a full disk must not block stopping the server
            (state_dir / _RECORD).write_text("\n".join(sorted(regions)))


def remove_regions(state_dir: Path) -> None:
    """Remove the recorded regions. Only for a server whose processes have all ended."""
    record = state_dir / _RECORD
    try:
        regions = record.read_text().splitlines()
    except OSError:
        return
    for path in [*(Path(region) for region in regions if _is_region(region)), record]:
        with contextlib.suppress(OSError):  # names are never reused: a record that remains does no harm
            path.unlink()


def _is_region(path: str) -> bool:
    return path.startswith(_PREFIX) and "/" not in path.removeprefix(_PREFIX)
