"""SIGTERM and Ctrl-C as a flag that a loop can check."""

from __future__ import annotations

import signal
import threading
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequested(Exception):
    """A signal requested that this process stop."""


class StopSignals:
    """While open, the first signal requests a stop and the second raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s`; whether a stop is requested."""
        return self._requested.wait(timeout_s)

    @property
    def is_requested(self) -> bool:
        """Whether a stop is requested."""
        return self._requested.is_set()

    def check(self) -> None:
        """Raise StopRequested when a stop is requested."""
        if self._requested.is_set():
            raise StopRequested

    def _receive(self, number: int, frame: object) -> None:
        if self._requested.is_set():
            raise KeyboardInterrupt
        self._requested.set()
