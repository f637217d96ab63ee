"""Installs packages by pip and shows one line of progress; pip's own output only if it fails. Standard library only.

python -m llmstack.diagnostics.pip_progress PYTHON [pip's arguments]
"""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from collections.abc import Sequence

_NUM_LINES_ON_ERROR = 40


def install(python: str, arguments: Sequence[str]) -> int:
    """Run `pip install` with `arguments` in the environment of `python`; returns pip's exit status."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", *arguments]
    last: deque[str] = deque(maxlen=_NUM_LINES_ON_ERROR)
    num_packages = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            last.append(line)
            if line.startswith("Collecting "):
                num_packages += 1
                _show(f"    {num_packages} packages, {line.split()[1]}")
            elif line.startswith("Installing collected packages"):
                _show(f"    {num_packages} packages, unpacking")
    _show("")
    if process.returncode:
        sys.stderr.writelines(last)
    return process.returncode


def _show(text: str) -> None:
    """Rewrite the line of a terminal; elsewhere nothing is shown."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text[:78]}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(install(sys.argv[1], sys.argv[2:]))
