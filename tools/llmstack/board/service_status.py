"""What the service says of itself on /readyz, asked at most every few seconds."""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

import httpx

MAX_AGE_S = 2.0
TIMEOUT_S = 2.0
_MAX_BYTES = 1 << 20


class ServiceStatus(NamedTuple):
    """The document of /readyz, or why there is none."""

    document: dict[str, Any]
    problem: str = ""


class StatusSource:
    """Asks `url`; safe for several threads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._last = ServiceStatus({}, "not asked yet")
        self._asked_at_s = float("-inf")

    def status(self) -> ServiceStatus:
        """The last answer, or a new one when that is old."""
        with self._lock:
            if time.monotonic() - self._asked_at_s > MAX_AGE_S:
                self._last = self._ask()
                self._asked_at_s = time.monotonic()
            return self._last

    def _ask(self) -> ServiceStatus:
        try:
            answer = httpx.get(self.url, timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)
            document = answer.json() if len(answer.content) <= _MAX_BYTES else None
        except (httpx.HTTPError, ValueError) as error:
            return ServiceStatus({}, f"no answer from {self.url}: {type(error).__name__}")
        if not isinstance(document, dict):
            return ServiceStatus({}, f"{self.url} answers with something else")
        return ServiceStatus(document)
