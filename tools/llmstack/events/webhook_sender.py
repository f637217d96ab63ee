"""One attempt: a signed POST with a deadline, and what became of it.

asyncio is here for its cancellation alone: httpx bounds each read, but not how long a receiver may keep sending one
byte a second, nor how long a name is looked up.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import httpx

from llm_policy.ledger.outbox import Event
from llmstack.events.endpoint import Endpoint
from llmstack.events.retry_schedule import parse_retry_after

CONTENT_TYPE = "application/cloudevents+json"
GONE = 410
_MAX_ERROR_CHARS = 200


@dataclass(frozen=True)
class TimeOuts:
    """How long one attempt may take: to connect, without a byte, and in all."""

    connect_s: float = 5.0
    read_s: float = 10.0
    total_s: float = 15.0


class WebhookResponse(NamedTuple):
    """What became of one attempt; `error` is empty when the receiver took the event."""

    status: int | None
    error: str
    retry_after_s: float | None = None


class AttemptInterrupted(Exception):
    """The attempt was broken off because this process stops; nobody knows what the receiver made of it."""


class WebhookSender:
    """Sends to one endpoint, one event at a time, from one thread; only `interrupt` may be called from another."""

    def __init__(self, endpoint: Endpoint, time_outs: TimeOuts) -> None:
        self._endpoint = endpoint
        self._time_outs = time_outs
        self._loop = asyncio.new_event_loop()
        self._attempt: asyncio.Task[WebhookResponse] | None = None
        self._is_interrupted = threading.Event()
        # Neither proxies nor certificates come from the environment by way of httpx; OpenSSL adds the system's own,
        # where a company's authority is.
        self._tls = httpx.create_ssl_context(trust_env=False)
        self._tls.load_default_certs()

    def close(self) -> None:
        """Free what `send` used; to be called when no attempt is under way."""
        self._loop.close()

    def interrupt(self) -> None:
        """Break off the attempt that is under way, and every later one."""
        self._is_interrupted.set()
        with suppress(RuntimeError):  # closed already
            self._loop.call_soon_threadsafe(self._cancel)

    def send(self, event: Event, now_s: float) -> WebhookResponse:
        """Sign `event` as sent at `now_s` (Unix time), POST it, and say what became of it.

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
            return await asyncio.wait_for(self._attempt, self._time_outs.total_s)
        except asyncio.TimeoutError:
            return WebhookResponse(None, f"no complete answer within {self._time_outs.total_s:g} s")
        except Exception as error:  # whatever it is, it is a failed attempt and not the end of the thread
            return WebhookResponse(None, self._describe(error))
        finally:
            self._attempt = None

    async def _post(self, headers: dict[str, str], body: bytes, now_s: float) -> WebhookResponse:
        limits = self._time_outs
        client = httpx.AsyncClient(  # a new one each time: no connection, cookie or state outlives an attempt
            verify=self._tls,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(limits.read_s, connect=limits.connect_s),
        )
        # The status says it all: the body of the answer is never read, however long it is.
        async with client, client.stream("POST", self._endpoint.url, content=body, headers=headers) as response:
            return _answer(response, now_s)

    def _cancel(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()

    def _describe(self, error: Exception) -> str:
        if isinstance(error, httpx.ConnectTimeout):
            return f"no connection within {self._time_outs.connect_s:g} s"
        if isinstance(error, httpx.TimeoutException):
            return f"no answer within {self._time_outs.read_s:g} s"
        return f"{type(error).__name__}: {error}"[:_MAX_ERROR_CHARS]


def _answer(response: httpx.Response, now_s: float) -> WebhookResponse:
    status = response.status_code
    if response.is_success:
        return WebhookResponse(status, "")
    what = ": redirects are not followed" if 300 <= status < 400 else ""
    return WebhookResponse(
        status, f"HTTP {status}{what}", parse_retry_after(response.headers.get("retry-after"), now_s)
    )
