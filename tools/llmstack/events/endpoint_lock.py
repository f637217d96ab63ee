"""A file lock that lets one process at a time deliver to an endpoint. The kernel releases it when the process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class EndpointBusy(Exception):
    """Another process delivers to this endpoint."""


class EndpointLock:
    """Holds the lock of `endpoint` while the context is open.

    Raises:
        EndpointBusy: another process holds it.
        OSError: the lock file can't be created.
    """

    def __init__(self, state_dir: Path, endpoint: str) -> None:
        self._path = state_dir / f"delivery-{endpoint}.lock"
        self._descriptor = -1

    def __enter__(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise EndpointBusy from None
            raise
        self._descriptor = descriptor

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)
