"""Detection of dead stubs, the processes of Triton's Python models.

Triton itself still reports ready when a stub has died, and never restarts it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

STUB = "triton_python_backend_stub"
MAX_ZOMBIE_S = 4.0


class StubWatch:
    """The stubs that a server had when it became ready."""

    def __init__(self, server_pid: int) -> None:
        children = psutil.Process(server_pid).children()
        self._stubs = {child: child.cmdline()[-2] for child in children if child.name() == STUB}

    def find_dead(self) -> list[str]:
        """The model instances whose stub died, such as `preprocess_0_0`.

        A stub that Triton ended itself, because its model was unloaded, leaves no zombie and is no longer watched.
        """
        states = {stub: _state(stub) for stub in self._stubs}
        self._stubs = {stub: instance for stub, instance in self._stubs.items() if states[stub] is not None}
        return [instance for stub, instance in self._stubs.items() if states[stub] == psutil.STATUS_ZOMBIE]


class LoadWatch:
    """Detects a stub that died while its model loads: Triton may wait for it until the start times out.

    Triton reaps a stub that it ended itself within moments. A stub that stays a zombie died otherwise.
    """

    def __init__(self, server_pid: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._server_pid, self._now_s = server_pid, now_s
        self._dead_since_s: dict[int, float] = {}  # by process id, on the monotonic clock

    def has_dead_stub(self) -> bool:
        """Whether a stub has been a zombie for `MAX_ZOMBIE_S`."""
        now_s = self._now_s()
        try:
            children = psutil.Process(self._server_pid).children()
        except psutil.NoSuchProcess:
            return False
        zombies = {child.pid for child in children if _state(child) == psutil.STATUS_ZOMBIE}
        self._dead_since_s = {pid: self._dead_since_s.get(pid, now_s) for pid in zombies}
        return any(now_s - since_s >= MAX_ZOMBIE_S for since_s in self._dead_since_s.values())


def _state(process: psutil.Process) -> str | None:
    """The process's state; None when the process no longer exists."""
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return None
