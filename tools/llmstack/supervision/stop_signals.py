"""SIGTERM and Ctrl-C as a question that a loop can ask."""

from __future__ import annotations

import signal
import threading
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequested(Exception):
    """Somebody asked this process to stop."""


class StopSignals:
    """While open, the first signal asks to stop and the second interrupts whatever is still being waited for."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wait(self, timeout_s: float) -> bool:
        """Whether a signal came, waiting for it up to `timeout_s`."""
        return self._asked.wait(timeout_s)

    @property
    def is_asked(self) -> bool:
        """Whether a signal came."""
        return self._asked.is_set()

    def check(self) -> None:
        """Raise StopRequested when a signal came."""
        if self._asked.is_set():
            raise StopRequested

    def _receive(self, number: int, frame: object) -> None:
        if self._asked.is_set():
            raise KeyboardInterrupt
        self._asked.set()
