"""HTTP connections with time limits and a bound per client address, so that no client can occupy the board.

A connection is in one of three phases. While it receives a request, the client is waited for, and a time limit holds
for the head and another for the body, however slowly bytes arrive. The third phase is the response, until the client
has taken it. When an address has too many connections, or all addresses together have, a new connection replaces the
one that has waited for its client the longest. So half-open connections shut nobody out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from enum import Enum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 200
MAX_CONNECTIONS_PER_ADDRESS = 50
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Phase(Enum):
    """What a connection is doing; the value is its time limit in seconds."""

    HEAD = 10.0  # also the wait for the next request
    BODY = 20.0
    RESPONSE = 60.0


class BoundedProtocol(H11Protocol):
    """One connection of uvicorn's HTTP/1.1 server."""

    limits_s: dict[Phase, float] = {phase: phase.value for phase in Phase}  # noqa: RUF012 - shared by all connections

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.phase = Phase.HEAD
        self.began_s = 0.0  # the beginning of the phase, on the loop's clock
        self._phase_key: object = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def address(self) -> str:
        """The client's IPv4 address or IPv6 network: a client has a whole /64."""
        return _network(self.client[0]) if self.client else ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take up a connection, if need be instead of one that waits for its client."""
        super().connection_made(transport)
        others = [cast(BoundedProtocol, each) for each in self.connections if each is not self]
        if not _make_room(self, others):
            transport.write(_BUSY)
            transport.close()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Process bytes of the client."""
        if not self.transport.is_closing():
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """End the request; the next one may already be there."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def replace(self) -> None:
        """End the connection in favour of a new one."""
        self.connections.discard(self)
        self._end()

    def _watch(self) -> None:
        """Begin the time limit of a new phase."""
        phase = self._current_phase()
        key = (phase, self.cycle)
        if key == self._phase_key:
            return
        self.phase, self._phase_key, self.began_s = phase, key, self.loop.time()
        self._stop_timer()
        if not self.transport.is_closing():
            self._timer = self.loop.call_later(self.limits_s[phase], self._end)

    def _current_phase(self) -> Phase:
        if self.conn.their_state is h11.IDLE:
            return Phase.HEAD
        return Phase.BODY if self.conn.their_state is h11.SEND_BODY else Phase.RESPONSE

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        """End the connection, with status 408 if a request is incomplete and no response is on its way."""
        self._stop_timer()
        is_answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        is_sending = is_answering or self.transport.is_closing() or self.transport.get_write_buffer_size() > 0
        if self.phase is not Phase.RESPONSE and not is_sending:
            self.transport.write(_TOO_SLOW)
            self.transport.close()
        else:
            self.transport.abort()


def _network(address: str) -> str:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:  # a socket without IP
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or ip_network((parsed, 64), strict=False))


def _make_room(new: BoundedProtocol, others: list[BoundedProtocol]) -> bool:
    """Whether `new` can be taken up, after replacing a connection where a bound is reached."""
    num_by_address = Counter(each.address for each in others)
    if num_by_address[new.address] >= MAX_CONNECTIONS_PER_ADDRESS:
        return _replace_oldest([each for each in others if each.address == new.address])
    if len(others) >= MAX_CONNECTIONS:
        waiting = [each for each in others if each.phase is not Phase.RESPONSE]
        most = max((num_by_address[each.address] for each in waiting), default=0)
        return _replace_oldest([each for each in waiting if num_by_address[each.address] == most])
    return True


def _replace_oldest(candidates: list[BoundedProtocol]) -> bool:
    waiting = [each for each in candidates if each.phase is not Phase.RESPONSE]
    if waiting:
        min(waiting, key=lambda each: each.began_s).replace()
    return bool(waiting)
