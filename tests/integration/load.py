"""Clients that keep sending requests, also while the service is down, and record every reply."""

from __future__ import annotations

import itertools
import threading
from typing import NamedTuple

import httpx

from tests.integration.live_service import LiveService, Reply

RETRY_S = 0.2


class SentRequest(NamedTuple):
    """One request and its reply."""

    request_id: str
    is_costly: bool  # it exceeds the manifest's cost threshold
    reply: Reply


class Load:
    """`num_clients` threads that send requests inside the `with` block.

    Every `costly_every`-th request breaches the cost threshold, but is served.
    """

    def __init__(
        self, live: LiveService, num_clients: int = 8, prefix: str = "r", pause_s: float = 0.0, costly_every: int = 5
    ) -> None:
        self._live, self._prefix, self._pause_s, self._dear_every = live, prefix, pause_s, costly_every
        self._numbers = itertools.count()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(num_clients)]
        self.sent: list[SentRequest] = []

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> list[SentRequest]:
        return [sent for sent in self.sent if sent.reply.status == 200]

    def _run(self) -> None:
        with httpx.Client() as client:
            while not self._closing.wait(self._pause_s):
                number = next(self._numbers)
                request_id, is_costly = f"{self._prefix}-{number}", number % self._dear_every == 0
                reply = self._live.send_request(client, {"X-Request-Id": request_id}, max_tokens=64 if is_costly else 4)
                self.sent.append(SentRequest(request_id, is_costly, reply))
                if reply.status != 200:
                    self._closing.wait(RETRY_S)


# 64 tokens at 300 nano-dollars exceed this cost; 4 tokens and the prompt do not. Queue delays never breach.
COSTLY_THRESHOLDS = {"max_queue_delay_us": 60_000_000, "max_cost_usd": 0.00001}
