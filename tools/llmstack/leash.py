"""Becomes another program that ends when the process which started it does, however that one ends.

Run as `python -I -S leash.py PARENT_PID PROGRAM ARGUMENT…`. A `preexec_fn` would do the same, but may deadlock when
the parent has threads. The kernel ties the leash to the *thread* that forked: start from one that stays.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent_pid: str, program: str, *arguments: str) -> None:
    """Ask for SIGTERM at the parent's death, then become `program`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(parent_pid):  # it died before we asked
        sys.exit(1)
    os.execv(program, [program, *arguments])  # noqa: S606 - no shell is what we want


if __name__ == "__main__":
    main(*sys.argv[1:])
