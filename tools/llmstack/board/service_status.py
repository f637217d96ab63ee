"""Reads the service's readiness from /readyz, at most every few seconds."""

from __future__ import annotations

import threading
import time
from typing import Any, NamedTuple

import httpx

MAX_AGE_S = 2.0
TIMEOUT_S = 2.0
_MAX_BYTES = 1 << 20


class ServiceStatus(NamedTuple):
    """The document of /readyz, or the reason why it can't be read."""

    document: dict[str, Any]
    problem: str = ""


class ServiceStatusClient:
    """Requests `url` and caches the response. Thread-safe."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._last = ServiceStatus({}, "not requested yet")
        self._requested_at_s = float("-inf")

    def status(self) -> ServiceStatus:
        """The status, at most `MAX_AGE_S` old."""
        with self._lock:
            if time.monotonic() - self._requested_at_s > MAX_AGE_S:
                self._last = self._request()
                self._requested_at_s = time.monotonic()
            return self._last

    def _request(self) -> ServiceStatus:
        try:
            response = httpx.get(self.url, timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)
            document = response.json() if len(response.content) <= _MAX_BYTES else None
        except (httpx.HTTPError, ValueError) as error:
            return ServiceStatus({}, f"no answer from {self.url}: {type(error).__name__}")
        if not isinstance(document, dict):
            return ServiceStatus({}, f"{self.url} does not answer with a readiness document")
        return ServiceStatus(document)
