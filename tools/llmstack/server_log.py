"""What a person needs to see of the server's log."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

# Every machine without a GPU says these; nothing is wrong.
_HARMLESS = re.compile(
    r"CUDA driver version is insufficient|CudaDriverHelper has not been initialized|CUDA memory pool disabled"
    r"|Failed to initialize NVML|DCGM unable to start|no CUDA-capable device"
)
_ENTRY = re.compile(r"^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ \d+ \S+\] ")
_TRACEBACK = re.compile(r"\n+At:\n")
_POLL_S = 0.2


def is_harmless(line: str) -> bool:
    """Whether `line` only says that this machine has no GPU."""
    return _HARMLESS.search(line) is not None


def failure_reasons(log: str, num_last_lines: int = 8) -> list[str]:
    """The error entries of a log, without source positions and tracebacks; the last lines when there are none."""
    errors = list(dict.fromkeys(_message(entry) for entry in _entries(log) if _is_reason(entry)))
    # A stub's own error comes back inside that of the model which it was to run.
    reasons = [error for error in errors if not any(error in other for other in errors if other != error)]
    return reasons or [line for line in log.splitlines() if line.strip() and not is_harmless(line)][-num_last_lines:]


def _entries(log: str) -> Iterator[str]:
    """The log's entries, with the lines that follow an entry's first."""
    entry: list[str] = []
    for line in log.splitlines():
        if entry and _ENTRY.match(line):
            yield "\n".join(entry)
            entry = []
        entry.append(line)
    yield "\n".join(entry)


def _is_reason(entry: str) -> bool:
    return _ENTRY.match(entry) is not None and entry[0] in "EF" and not is_harmless(entry)


def _message(entry: str) -> str:
    """An entry's text; newer servers quote it and escape its line ends."""
    text = _ENTRY.sub("", entry).strip().strip('"').replace("\\n", "\n").replace('\\"', '"')
    return _TRACEBACK.split(text)[0].removeprefix("ERROR: Failed to create instance: ").strip()


class LogRelay:
    """Hands each new line of a growing file to `show` until closed."""

    def __init__(self, path: Path, show: Callable[[str], None]) -> None:
        self._path, self._show = path, show
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-relay", daemon=True)

    def __enter__(self) -> LogRelay:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        with self._path.open(encoding="utf-8", errors="replace") as file:
            partial = ""
            while True:
                closing = self._closing.wait(_POLL_S)
                *lines, partial = (partial + file.read()).split("\n")
                for line in lines:
                    self._show(line)
                if closing:
                    return
