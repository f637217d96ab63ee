"""CPU time and memory of a server and its child processes."""

from __future__ import annotations

from pathlib import Path

import psutil


def cpu_seconds(pid: int) -> float:
    """CPU seconds used so far by the process `pid` and its descendants."""
    times = [process.cpu_times() for process in _process_tree(pid)]
    return float(sum(t.user + t.system for t in times))


def resident_mib(pid: int) -> dict[str, float]:
    """Resident memory in MiB of the process `pid` and of each descendant, by process name and model."""
    return {_title(process): round(process.memory_info().rss / (1 << 20), 1) for process in _process_tree(pid)}


def _process_tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _title(process: psutil.Process) -> str:
    """A Python stub's command line has the path of its model.py; other processes are named by their id."""
    command = process.cmdline()
    model = next((Path(part).parent.parent.name for part in command if part.endswith("model.py")), "")
    return f"{process.name()} {model or process.pid}"
