"""Detection of dead stubs, the processes of Triton's Python models.

Triton itself still reports ready when a stub has died, and never restarts it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator

import psutil

STUB = "triton_python_backend_stub"
MAX_ZOMBIE_S = 4.0
_KILL_TIMEOUT_S, _KILL_POLL_S = 5.0, 0.01


def model_of(instance: str) -> str:
    """The model of an instance: `preprocess` of `preprocess_0_0`."""
    return instance.rsplit("_", 2)[0]


class StubWatch:
    """The stubs that a server had when it became ready, and those that replaced them."""

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self._stubs = dict(_living_stubs(server_pid))

    def find_dead(self) -> list[str]:
        """The model instances whose stub died, such as `preprocess_0_0`.

        A stub that Triton ended itself, because its model was unloaded, leaves no zombie and is no longer watched.
        """
        states = {stub: _state(stub) for stub in self._stubs}
        self._stubs = {stub: instance for stub, instance in self._stubs.items() if states[stub] is not None}
        return [instance for stub, instance in self._stubs.items() if states[stub] == psutil.STATUS_ZOMBIE]

    def kill(self, models: Collection[str]) -> None:
        """Kill the stubs of these models: one that hangs would keep its model from being loaded anew."""
        stubs = self._of(models)
        for stub in stubs:
            with contextlib.suppress(psutil.NoSuchProcess):
                stub.kill()
        deadline = time.monotonic() + _KILL_TIMEOUT_S
        while any(_is_alive(stub) for stub in stubs) and time.monotonic() < deadline:
            time.sleep(_KILL_POLL_S)

    def renew(self, models: Collection[str]) -> None:
        """Watch the stubs that these models have now. Triton keeps the zombies of those that died."""
        replaced = self._of(models)
        self._stubs = {stub: instance for stub, instance in self._stubs.items() if stub not in replaced}
        self._stubs.update((stub, name) for stub, name in _living_stubs(self._server_pid) if model_of(name) in models)

    def _of(self, models: Collection[str]) -> list[psutil.Process]:
        return [stub for stub, instance in self._stubs.items() if model_of(instance) in models]


class LoadWatch:
    """Detects a stub that died while its model loads: Triton may wait for it until the start times out.

    Triton reaps a stub that it ended itself within moments. A stub that stays a zombie died otherwise. Stubs that are
    dead already do not count.
    """

    def __init__(self, server_pid: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._server_pid, self._now_s = server_pid, now_s
        self._dead_since_s: dict[int, float] = {}  # by process id, on the monotonic clock
        self._dead_before = self._zombies()

    def has_dead_stub(self) -> bool:
        """Whether a stub has been a zombie for `MAX_ZOMBIE_S`."""
        now_s = self._now_s()
        zombies = self._zombies() - self._dead_before
        self._dead_since_s = {pid: self._dead_since_s.get(pid, now_s) for pid in zombies}
        return any(now_s - since_s >= MAX_ZOMBIE_S for since_s in self._dead_since_s.values())

    def _zombies(self) -> set[int]:
        try:
            children = psutil.Process(self._server_pid).children()
        except psutil.NoSuchProcess:
            return set()
        return {child.pid for child in children if _state(child) == psutil.STATUS_ZOMBIE}


def _living_stubs(server_pid: int) -> Iterator[tuple[psutil.Process, str]]:
    """The server's stubs with their model instances."""
    for child in psutil.Process(server_pid).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if child.name() == STUB and len(words := child.cmdline()) > 1:  # a zombie has no command line
                yield child, words[-2]


def _is_alive(process: psutil.Process) -> bool:
    return _state(process) not in (None, psutil.STATUS_ZOMBIE)


def _state(process: psutil.Process) -> str | None:
    """The process's state; None when the process no longer exists."""
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return None
