"""CPU time and memory of a server and its child processes."""

from __future__ import annotations

from pathlib import Path

import psutil


def cpu_seconds(pid: int) -> float:
    """CPU seconds used so far by the process `pid` and its descendants."""
    times = [process.cpu_times() for process in _process_tree(pid)]
    return float(sum(t.user + t.system for t in times))


def stub_cpu_seconds(pid: int, model: str) -> float:
    """CPU seconds used so far by the Python stub of `model`, a descendant of the server `pid`.

    Raises:
        LookupError: there is none.
    """
    for process in _process_tree(pid):
        if _model(process) == model:
            times = process.cpu_times()
            return float(times.user + times.system)
    raise LookupError(model)


def resident_mib(pid: int) -> dict[str, float]:
    """Resident memory in MiB of the process `pid` and of each descendant, by process name and model."""
    return {_title(process): round(process.memory_info().rss / (1 << 20), 1) for process in _process_tree(pid)}


def _process_tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _title(process: psutil.Process) -> str:
    return f"{process.name()} {_model(process) or process.pid}"


def _model(process: psutil.Process) -> str:
    """The model whose Python stub this is, by the path of its model.py on the command line; empty for others."""
    return next((Path(part).parent.parent.name for part in process.cmdline() if part.endswith("model.py")), "")
