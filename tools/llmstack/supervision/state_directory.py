"""The state directory of one running `llmstack serve`: its lock, its write check and its drain mark."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

import psutil

from llmstack.server.error import ServerStartError

DRAINING = "draining"
_LOCK, _PROBE = "serve.lock", ".write-probe"
_PROBE_BYTES = 4_096
# The server of a parent that was killed also holds the lock. The kernel kills it, which takes a moment.
_LOCK_TIMEOUT_S = 15.0
_POLL_S = 0.1


class StateDirectoryInUse(ServerStartError):
    """Another `llmstack serve` uses the directory."""


class StateDirectory:
    """A directory that no other `llmstack serve` uses while it is open; created when missing.

    The server and its stubs inherit the lock, so it is free only when the last of them has ended. One whose holder has
    died is waited for up to `lock_timeout_s`.

    Raises:
        ServerStartError: the directory can't be created or written.
        StateDirectoryInUse: another process holds the lock.
    """

    def __init__(self, path: Path, lock_timeout_s: float = _LOCK_TIMEOUT_S) -> None:
        self.path = path.absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            self._acquire(lock_timeout_s)
            self.check_writable()
            self.end_draining()
        except OSError as error:
            os.close(self._lock)
            raise self._unwritable(error) from None
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> StateDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._lock)

    @property
    def lock_fd(self) -> int:
        """The descriptor that holds the lock, for the server to inherit."""
        return self._lock

    def check_writable(self) -> None:
        """Write and delete a small file.

        Raises:
            OSError: the directory is full, read-only or missing.
        """
        probe = self.path / _PROBE
        file = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.write(file, b"\0" * _PROBE_BYTES)
            os.fsync(file)
        finally:
            os.close(file)
            with contextlib.suppress(OSError):
                probe.unlink()

    def begin_draining(self) -> None:
        """Set the drain mark: preprocess rejects every new request."""
        (self.path / DRAINING).touch()

    def end_draining(self) -> None:
        """Remove the drain mark, also one that an earlier run left: preprocess accepts requests again."""
        (self.path / DRAINING).unlink(missing_ok=True)

    def _acquire(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner_pid = self._owner_pid()
                if _is_alive(owner_pid) or time.monotonic() > deadline:
                    raise self._in_use(owner_pid) from None
            time.sleep(_POLL_S)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _owner_pid(self) -> int:
        text = os.pread(self._lock, 32, 0).decode("ascii", "replace")
        return int(text) if text.isdigit() else 0

    def _in_use(self, owner_pid: int) -> StateDirectoryInUse:
        who = f"llmstack serve with process id {owner_pid}" if _is_alive(owner_pid) else "a server whose parent is gone"
        return StateDirectoryInUse(
            f"the state directory {self.path} is in use by {who}",
            "stop it, or give this one another --state-dir (LLMSTACK_STATE_DIR)",
        )

    def _unwritable(self, error: OSError) -> ServerStartError:
        return ServerStartError(
            f"the state directory {self.path} can't be written: {(error.strerror or str(error)).lower()}",
            "make room or change its owner, or give another --state-dir (LLMSTACK_STATE_DIR)",
        )


def is_in_use(path: Path) -> bool:
    """Whether a process uses the state directory at `path` now."""
    try:
        lock = os.open(path / _LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def owner_pid(path: Path) -> int:
    """The process id of the current or last user of the state directory at `path`; 0 when unknown."""
    try:
        text = (path / _LOCK).read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def _is_alive(pid: int) -> bool:
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
