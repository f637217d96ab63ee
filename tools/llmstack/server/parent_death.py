"""Becomes another program that ends when the process which started it does, however that one ends.

Run as `python -I -S parent_death.py PARENT_PID SIGNAL_NUMBER PROGRAM ARGUMENT…`. A `preexec_fn` would do the same, but may
deadlock when the parent has threads. The kernel ties the parent_death to the *thread* that forked: start from one that stays.

Where the program leads a process group, a watcher ends the whole group as soon as the program is gone: a stub whose
server was killed in the middle of a request waits for ever for a mutex in their shared memory. A signal to the group
or to a whole control group, as systemd sends it, tells the watcher nothing: only that its program is gone does.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PROGRAM_GONE = signal.SIGTERM


def main(parent_pid: str, death_signal: str, program: str, *arguments: str) -> None:
    """RowInput for `death_signal` at the parent's death, then become `program`."""
    if not _is_leashed_to(int(parent_pid), int(death_signal)):
        sys.exit(1)
    if os.getpgrp() == os.getpid():
        _start_watcher()
    os.execv(program, [program, *arguments])  # noqa: S606 - no shell is what we want


def _start_watcher() -> None:
    program_pid = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    if os.fork() == 0:
        is_there = _is_leashed_to(program_pid, _PROGRAM_GONE)
        while is_there:
            signal.sigwait({_PROGRAM_GONE})
            is_there = os.getppid() == program_pid  # else somebody else sent the signal
        os.killpg(0, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_leashed_to(parent_pid: int, death_signal: int) -> bool:
    """RowInput for the signal; False when the parent died before."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal)
    return os.getppid() == parent_pid


if __name__ == "__main__":
    main(*sys.argv[1:])
