"""The shared memory of a server that was killed: nobody else would ever take it away.

Each stub has a region under a name that is never used twice. They are noted in the state directory, because the parent
may be killed as well.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_PREFIX = "/dev/shm/triton_python_backend_shm_region_"  # noqa: S108 - where the kernel keeps it
_NOTE = "shared-memory.txt"


def record_regions(state_dir: Path, server_pid: int) -> None:
    """Remember the regions that the server has mapped now."""
    try:
        lines = Path(f"/proc/{server_pid}/maps").read_text().splitlines()
    except OSError:  # it is dead: what was noted before stands
        return
    regions = {path for line in lines if (path := line.split()[-1]).startswith(_PREFIX)}
    if regions:
        with contextlib.suppress(OSError):  # a full disk must not keep the server from being stopped
            (state_dir / _NOTE).write_text("\n".join(sorted(regions)))


def remove_regions(state_dir: Path) -> None:
    """Take away what the noted server left. Only for a server whose processes are gone."""
    note = state_dir / _NOTE
    try:
        regions = note.read_text().splitlines()
    except OSError:
        return
    for path in [*(Path(region) for region in regions if _is_region(region)), note]:
        with contextlib.suppress(OSError):  # names are never used twice: a note that stays does no harm
            path.unlink()


def _is_region(path: str) -> bool:
    return path.startswith(_PREFIX) and "/" not in path.removeprefix(_PREFIX)
