"""Slots: the files that one process at a time keeps its measurements in, in `<state>/metrics/`.

A process holds its slot by a lock that the kernel frees when it ends. Its files stay, and the next holder counts on
from there. After a power cut one may hold anything: what can't be read is moved aside, and the others count.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
from prometheus_client.multiprocess import MultiProcessCollector

# Every series of a process, with room to spare. A file that grew later would be sparse, and a write to a page for
# which the disk has no room ends the process.
_FILE_BYTES = 1 << 17
_KINDS = ("histogram", "counter")


class MetricSlot:
    """The first slot in `directory` that nobody holds, with whole files, until `close` or the end of the process.

    Raises:
        OSError: the directory takes no files; nothing is held then.
    """

    def __init__(self, directory: Path) -> None:
        self._lock, self.number = _lock_first(directory)
        try:
            for path in _files(directory, self.number):
                if not _is_readable(path):
                    _move_aside(path)
                _allocate(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another one have it."""
        os.close(self._lock)


def _is_readable(path: Path) -> bool:
    """Whether a file is what its process wrote; one that is missing or empty is, too.

    Raises:
        OSError: it can't be read at all.
    """
    try:
        if path.stat().st_size:
            MultiProcessCollector.merge([str(path)])  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        return True
    except OSError:
        raise
    except Exception:  # whatever a parser comes to in bytes that nobody wrote
        return False
    return True


def move_damaged_aside(directory: Path) -> None:
    """Move every file away that can't be read.

    Raises:
        OSError: one can't be moved, or a live process has it.
    """
    for path in files(directory):
        if not _is_readable(path):
            with _held(directory, int(path.stem.rsplit("_", 1)[1])):
                _move_aside(path)


def files(directory: Path) -> list[Path]:
    """The files of all slots."""
    return sorted(directory.glob("*_*.db"))


def _files(directory: Path, number: int) -> list[Path]:
    return [directory / f"{kind}_{number}.db" for kind in _KINDS]


def _lock_first(directory: Path) -> tuple[int, int]:
    for number in itertools.count():
        with contextlib.suppress(BlockingIOError):
            return _lock(directory, number), number
    raise AssertionError("there is always one more slot")


def _lock(directory: Path, number: int) -> int:
    lock = os.open(directory / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock


@contextlib.contextmanager
def _held(directory: Path, number: int) -> Iterator[None]:
    lock = _lock(directory, number)
    try:
        yield
    finally:
        os.close(lock)


def _move_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    line = {"event": "metrics_file_damaged", "file": path.name, "moved_to": aside.name, "next": "its numbers are lost"}
    sys.stderr.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE).decode())


def _allocate(path: Path) -> None:
    """Make sure that every page of the file has its place on the disk."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.posix_fallocate(file, 0, _FILE_BYTES)
    finally:
        os.close(file)
