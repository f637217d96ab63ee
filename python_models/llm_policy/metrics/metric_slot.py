"""Slots: the metric files of one process at a time, in `<state>/metrics/`.

A process holds its slot by a lock that the kernel releases when the process ends. The files stay, and the slot's next
holder counts on from there. After a power cut a file may hold any bytes: a file that can't be read is quarantined
(renamed) and the others still count.
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

# Room for every series of a process. The whole file is allocated up front: a file that grew later would be sparse, and
# a write to a page that the disk has no room for kills the process (SIGBUS).
_FILE_BYTES = 1 << 17
_KINDS = ("histogram", "counter")


class MetricSlot:
    """The first free slot in `directory`, held until `close` or the end of the process. Its files are readable.

    Raises:
        OSError: the directory can't be written; no slot is held.
    """

    def __init__(self, directory: Path) -> None:
        self._lock, self.number = _lock_first_free(directory)
        try:
            for path in _slot_files(directory, self.number):
                if not _is_readable(path):
                    _quarantine(path)
                _allocate(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the slot's lock."""
        os.close(self._lock)


def metric_files(directory: Path) -> list[Path]:
    """The files of all slots."""
    return sorted(directory.glob("*_*.db"))


def quarantine_damaged_files(directory: Path) -> None:
    """Rename every file that can't be read.

    Raises:
        OSError: a file can't be renamed, or a live process holds its slot.
    """
    for path in metric_files(directory):
        if not _is_readable(path):
            with _held(directory, int(path.stem.rsplit("_", 1)[1])):
                _quarantine(path)


def _is_readable(path: Path) -> bool:
    """Whether the file can be parsed; a missing or empty file counts as readable.

    Raises:
        OSError: the file exists but reading it failed.
    """
    try:
        if path.stat().st_size:
            MultiProcessCollector.merge([str(path)])  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        return True
    except OSError:
        raise
    except Exception:  # the parser raises any exception on arbitrary bytes
        return False
    return True


def _slot_files(directory: Path, number: int) -> list[Path]:
    return [directory / f"{kind}_{number}.db" for kind in _KINDS]


def _lock_first_free(directory: Path) -> tuple[int, int]:
    for number in itertools.count():
        with contextlib.suppress(BlockingIOError):
            return _lock(directory, number), number
    raise AssertionError("unreachable: itertools.count is infinite")


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


def _quarantine(path: Path) -> None:
    target = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(target)
    line = {"event": "metrics_file_damaged", "file": path.name, "moved_to": target.name, "next": "its values are lost"}
    sys.stderr.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE).decode())


def _allocate(path: Path) -> None:
    """Reserve disk space for the whole file."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.posix_fallocate(file, 0, _FILE_BYTES)
    finally:
        os.close(file)
