"""Becomes another program that ends when the process which started it does, however that one ends.

Run as `python -I -S leash.py PARENT_PID SIGNAL_NUMBER PROGRAM ARGUMENT…`. A `preexec_fn` would do the same, but may
deadlock when the parent has threads. The kernel ties the leash to the *thread* that forked: start from one that stays.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1


def main(parent_pid: str, death_signal: str, program: str, *arguments: str) -> None:
    """Ask for `death_signal` at the parent's death, then become `program`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(death_signal))
    if os.getppid() != int(parent_pid):  # it died before we asked
        sys.exit(1)
    os.execv(program, [program, *arguments])  # noqa: S606 - no shell is what we want


if __name__ == "__main__":
    main(*sys.argv[1:])
