"""Whether a server's Python models still have their processes.

Triton itself goes on saying that it is ready when one of them died, and never starts it again.
"""

from __future__ import annotations

import psutil

STUB = "triton_python_backend_stub"


class StubWatch:
    """The stubs of one server, as they were when it became ready."""

    def __init__(self, server_pid: int) -> None:
        children = psutil.Process(server_pid).children()
        self._stubs = {child: child.cmdline()[-2] for child in children if child.name() == STUB}

    def find_dead(self) -> list[str]:
        """The model instances whose stub died, such as `preprocess_0_0`.

        A stub that Triton ended itself, because its model was unloaded, is gone and no zombie: it is forgotten.
        """
        states = {stub: _state(stub) for stub in self._stubs}
        self._stubs = {stub: instance for stub, instance in self._stubs.items() if states[stub] is not None}
        return [instance for stub, instance in self._stubs.items() if states[stub] == psutil.STATUS_ZOMBIE]


def _state(process: psutil.Process) -> str | None:
    """The process's state; None when it is gone."""
    try:
        return process.status()
    except psutil.NoSuchProcess:
        return None
