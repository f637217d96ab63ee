"""The engine's Unix socket in the state directory.

The kernel limits a socket's path to 107 bytes. A state directory may be deeper, so the path goes through a file
descriptor of the directory.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

SOCKET_NAME = "engine.sock"
_BACKLOG = 128


def listen(state_dir: Path) -> socket.socket:
    """A listening socket in `state_dir` that only this user can open; one that is left from before is replaced.

    Raises:
        OSError: it can't be made.
    """
    with contextlib.suppress(FileNotFoundError):
        (state_dir / SOCKET_NAME).unlink()
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        with _short_path(state_dir) as path:
            listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def connect(state_dir: Path) -> socket.socket:
    """A connection to the engine whose socket is in `state_dir`.

    Raises:
        OSError: nothing listens there.
    """
    connection = socket.socket(socket.AF_UNIX)
    try:
        with _short_path(state_dir) as path:
            connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _short_path(state_dir: Path) -> Iterator[str]:
    descriptor = os.open(state_dir, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)
