"""Interruptions of the server thread: the thread that owns the server, starts it and watches it.

Two things interrupt it: a request to stop the process, and a release change that needs the server. Whatever the thread
waits for is then abandoned, so a start that hangs blocks neither a stop nor a change to another release.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass
from typing import TypeVar

from llmstack.supervision.stop_signals import StopSignals

T = TypeVar("T")
POLL_S = 0.25
_MAX_WAIT_S = 1.0


class Preempted(Exception):
    """Raised on the server thread to abandon its current operation: a release change needs the server."""


@dataclass
class Interruptions:
    """Interruptible waits of the server thread; each calls `pulse` as it goes on, so /livez sees the thread alive.

    `should_yield` returns whether a release change needs the server.
    """

    stop: StopSignals
    should_yield: Callable[[], bool]
    pulse: Callable[[], None]

    @property
    def is_pending(self) -> bool:
        """Whether a stop is requested or a release change needs the server."""
        return self.stop.is_requested or self.should_yield()

    def check(self) -> None:
        """Return unless an interruption is pending.

        Raises:
            StopRequested: a stop is requested.
            Preempted: a release change needs the server.
        """
        self.pulse()
        self.stop.check()
        if self.should_yield():
            raise Preempted

    def wait(self, seconds: float) -> None:
        """Wait for `seconds`, or until an interruption is pending."""
        deadline = time.monotonic() + seconds
        while (left_s := deadline - time.monotonic()) > 0 and not self.stop.wait(min(left_s, _MAX_WAIT_S)):
            self.pulse()
            if self.should_yield():
                return

    def run(self, work: Callable[[], T], on_poll: Callable[[], None] = lambda: None) -> T:
        """Run `work` on a thread of its own and return its result.

        An interruption abandons the work, and so does an exception of `on_poll`: its thread runs on, and its result is
        dropped.

        Raises:
            StopRequested: a stop is requested.
            Preempted: a release change needs the server.
        """
        future: futures.Future[T] = futures.Future()
        threading.Thread(target=_settle, args=(future, work), name="interruptible-work", daemon=True).start()
        while not futures.wait([future], timeout=POLL_S).done:
            self.check()
            on_poll()
        return future.result()


def _settle(future: futures.Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # raised again by `Future.result`
        future.set_exception(error)
