"""The server's log: its rotation, the errors in it, and a relay to the terminal."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

# Logged on every machine without a GPU; nothing is wrong.
_HARMLESS = re.compile(
    r"CUDA driver version is insufficient|CudaDriverHelper has not been initialized|CUDA memory pool disabled"
    r"|Failed to initialize NVML|DCGM unable to start|no CUDA-capable device"
)
_ENTRY = re.compile(r"^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ \d+ \S+\] ")
_TRACEBACK = re.compile(r"\n+At:\n")
_POLL_S = 0.2


def is_harmless(line: str) -> bool:
    """Whether `line` only reports that this machine has no GPU."""
    return _HARMLESS.search(line) is not None


def failure_reasons(log: str, num_last_lines: int = 8) -> list[str]:
    """The error entries of a log, without source positions and tracebacks; the last lines when there are none."""
    errors = list(dict.fromkeys(_message(entry) for entry in _entries(log) if _is_reason(entry)))
    # The error of a stub is repeated within that of its model.
    reasons = [error for error in errors if not any(error in other for other in errors if other != error)]
    return reasons or [line for line in log.splitlines() if line.strip() and not is_harmless(line)][-num_last_lines:]


def _entries(log: str) -> Iterator[str]:
    """The log's entries, each with its continuation lines."""
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
    """The text of an entry, which newer servers quote, with escaped line ends."""
    text = _ENTRY.sub("", entry).strip().strip('"').replace("\\n", "\n").replace('\\"', '"')
    return _TRACEBACK.split(text)[0].removeprefix("ERROR: Failed to create instance: ").strip()


def rotate_log(path: Path, max_bytes: int, num_kept: int = 3) -> bool:
    """Once `path` is longer than `max_bytes`, copy it to `path.1`, older copies to .2 and .3, and truncate it.

    The server and its stubs append to the open file, so it can't be renamed. Lines that they write in the microseconds
    between copy and truncation are lost. On a full disk the log is truncated without a copy. A deleted log is left
    alone; the server's next start creates it.

    Returns:
        Whether the log was truncated.

    Raises:
        OSError: the log can't be truncated.
    """
    try:
        if path.stat().st_size <= max_bytes:
            return False
    except FileNotFoundError:
        return False
    kept = [path.with_name(f"{path.name}.{number}") for number in range(1, num_kept + 1)]
    for older, newer in zip(reversed(kept), reversed(kept[:-1]), strict=False):
        with contextlib.suppress(FileNotFoundError):
            newer.replace(older)
    try:
        with path.open("rb") as source, kept[0].open("wb") as copy:
            shutil.copyfileobj(source, copy)
            os.truncate(path, 0)
    except OSError:
        kept[0].unlink(missing_ok=True)
        os.truncate(path, 0)
    return True


class LogRelay:
    """Passes each new line of a growing file to `show` until closed; starts over when the file was truncated."""

    def __init__(self, path: Path, show: Callable[[str], None], start: int = 0) -> None:
        self._path, self._show, self._start = path, show, start
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-relay", daemon=True)

    def __enter__(self) -> LogRelay:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._start)
            partial = b""
            while True:
                closing = self._closing.wait(_POLL_S)
                if os.fstat(file.fileno()).st_size < file.tell():
                    file.seek(0)
                *lines, partial = (partial + file.read()).split(b"\n")
                for line in lines:
                    self._show(line.decode("utf-8", "replace"))
                if closing:
                    return
