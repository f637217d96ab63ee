"""Runs a program that receives a signal when its parent process dies (prctl PR_SET_PDEATHSIG), and leaves no core file.

Run as `python -I -S parent_death.py PARENT_PID SIGNAL_NUMBER PROGRAM ARGUMENT…`. A `preexec_fn` would do the same, but
may deadlock when the parent has threads. The kernel sends the signal when the *thread* that forked ends, so start the
program from a thread that lives as long as the program should.

Where the program leads a process group, a watcher process kills the whole group as soon as the program has ended: a
stub whose server was killed in the middle of a request waits for ever for a mutex in their shared memory. The watcher
ignores signals that the group or its whole control group receives, as from systemd, while its program lives.

A core file would hold clients' prompts and API keys.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PROGRAM_ENDED = signal.SIGTERM
# The kernel gives a core to a program (kernel.core_pattern) at any limit but 1, which allows no file either.
_NO_CORE_BYTES = 1


def main(parent_pid: str, death_signal: str, program: str, *arguments: str) -> None:
    """Request `death_signal` at the parent's death, then execute `program` in this process."""
    if not _request_death_signal(int(parent_pid), int(death_signal)):
        sys.exit(1)
    forbid_core_files()
    if os.getpgrp() == os.getpid():
        _start_watcher()
    os.execv(program, [program, *arguments])  # noqa: S606 - no shell is what we want


def forbid_core_files() -> None:
    """This process and those that it starts leave no core when they crash."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = _NO_CORE_BYTES if hard == resource.RLIM_INFINITY else min(hard, _NO_CORE_BYTES)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def _start_watcher() -> None:
    program_pid = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if os.fork() == 0:
        is_alive = _request_death_signal(program_pid, _PROGRAM_ENDED)
        while is_alive:
            signal.sigwait({_PROGRAM_ENDED})
            is_alive = os.getppid() == program_pid  # another process may have sent the signal
        os.killpg(0, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _request_death_signal(parent_pid: int, death_signal: int) -> bool:
    """Request `death_signal` for this process when its parent dies; False when the parent is already dead."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal)
    return os.getppid() == parent_pid


if __name__ == "__main__":
    main(*sys.argv[1:])
