"""Processes that lead a group of their own and end with the thread that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

from llmstack.server import parent_death


def launcher(death_signal: signal.Signals) -> list[str]:
    """The words before a program's own: it receives `death_signal` when this thread ends (`parent_death`)."""
    return [sys.executable, "-I", "-S", parent_death.__file__, str(os.getpid()), str(int(death_signal))]


def stop_group(leader: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Terminate `leader`; what is left of its group after `timeout_s`, or after its end, is killed."""
    leader.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        leader.wait(timeout_s)
    kill_group(leader)


def kill_group(leader: subprocess.Popen[bytes]) -> None:
    """Kill the group that `leader` leads, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
