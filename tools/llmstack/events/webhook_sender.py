"""One delivery attempt: a signed POST with a deadline.

asyncio is used for cancellation: httpx limits each read, but neither the total time of a response that trickles in nor
the time of a DNS lookup.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import NamedTuple

import httpx

from llm_policy.ledger.outbox import Event, new_event
from llmstack.events.endpoint import Endpoint
from llmstack.events.retry_schedule import parse_retry_after

CONTENT_TYPE = "application/cloudevents+json"
TEST_EVENT_TYPE = "llm_webhook_test"
GONE = 410
_MAX_ERROR_CHARS = 200


@dataclass(frozen=True)
class Timeouts:
    """Time limits of one attempt: to connect, between two bytes, and in total."""

    connect_s: float = 5.0
    read_s: float = 10.0
    total_s: float = 15.0


class WebhookResponse(NamedTuple):
    """The result of one attempt: `error` is empty when the receiver accepted the event."""

    status: int | None
    error: str
    retry_after_s: float | None = None


class AttemptInterrupted(Exception):
    """The attempt was cancelled because this process stops. The receiver may have accepted the event."""


class WebhookSender:
    """Sends to one endpoint, one event at a time, from one thread; only `interrupt` may be called from another."""

    def __init__(self, endpoint: Endpoint, timeouts: Timeouts) -> None:
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._loop = asyncio.new_event_loop()
        self._attempt: asyncio.Task[WebhookResponse] | None = None
        self._is_interrupted = threading.Event()
        # httpx takes neither proxies nor certificates from the environment; OpenSSL adds the system's certificates,
        # which include a company's own authority.
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._tls.load_default_certs()

    def close(self) -> None:
        """Close the event loop. No attempt may be in progress."""
        self._loop.close()

    def interrupt(self) -> None:
        """Cancel the attempt in progress and every later one."""
        self._is_interrupted.set()
        with suppress(RuntimeError):  # already closed
            self._loop.call_soon_threadsafe(self._cancel)

    def send(self, event: Event, now_s: float) -> WebhookResponse:
        """Sign `event` as sent at `now_s` (Unix time), POST it and return the result.

        Raises:
            AttemptInterrupted: `interrupt` was called.
        """
        timestamp_s = int(now_s)
        headers = {
            "content-type": CONTENT_TYPE,
            "user-agent": "llmstack",
            "connection": "close",
            "webhook-id": event.id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": self._endpoint.secrets.signature(event.id, timestamp_s, event.body),
        }
        try:
            return self._loop.run_until_complete(self._attempt_within(headers, event.body, now_s))
        except asyncio.CancelledError:
            raise AttemptInterrupted from None

    async def _attempt_within(self, headers: dict[str, str], body: bytes, now_s: float) -> WebhookResponse:
        self._attempt = asyncio.create_task(self._post(headers, body, now_s))
        try:
            if self._is_interrupted.is_set():
                self._attempt.cancel()
            return await asyncio.wait_for(self._attempt, self._timeouts.total_s)
        except asyncio.TimeoutError:
            return WebhookResponse(None, f"no complete response within {self._timeouts.total_s:g} s")
        except Exception as error:  # any error is a failed attempt and must not end the thread
            return WebhookResponse(None, self._describe(error))
        finally:
            self._attempt = None

    async def _post(self, headers: dict[str, str], body: bytes, now_s: float) -> WebhookResponse:
        timeouts = self._timeouts
        client = httpx.AsyncClient(  # a new one each time, so no connection, cookie or state outlives an attempt
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(timeouts.read_s, connect=timeouts.connect_s),
        )
        # Only the status counts: the body of the response, of any length, is not read.
        async with client, client.stream("POST", self._endpoint.url, content=body, headers=headers) as response:
            return _webhook_response(response, now_s)

    def _cancel(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()

    def _describe(self, error: Exception) -> str:
        if isinstance(error, httpx.ConnectTimeout):
            return f"no connection within {self._timeouts.connect_s:g} s"
        if isinstance(error, httpx.TimeoutException):
            return f"no response within {self._timeouts.read_s:g} s"
        return f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]


def send_test_event(endpoint: Endpoint) -> WebhookResponse:
    """Send a signed test event to `endpoint` once, without the outbox.

    Raises:
        InstanceError: the instance's name in the environment is not valid.
    """
    now_ns = time.time_ns()
    event = new_event(TEST_EVENT_TYPE, {"endpoint": endpoint.name}, now_ns)
    with closing(WebhookSender(endpoint, Timeouts())) as sender:
        return sender.send(event, now_ns / 1e9)


def _webhook_response(response: httpx.Response, now_s: float) -> WebhookResponse:
    status = response.status_code
    if response.is_success:
        return WebhookResponse(status, "")
    detail = ": redirects are not followed" if 300 <= status < 400 else ""
    retry_after_s = parse_retry_after(response.headers.get("retry-after"), now_s)
    return WebhookResponse(status, f"HTTP {status}{detail}", retry_after_s)
