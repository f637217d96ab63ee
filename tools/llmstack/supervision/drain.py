"""The drain: wait until every request in flight is answered."""

from __future__ import annotations

import time

import psutil

from llmstack.server.command import STREAM_MODEL
from llmstack.server.process import TritonServer
from llmstack.supervision.supervisor import Supervisor

POLL_S = 0.25
# A request that preprocess admitted just before it saw the drain mark shows in the statistics within this time.
SETTLE_S = 1.0


def wait_until_idle(supervisor: Supervisor, timeout_s: float) -> bool:
    """Whether every request in flight was answered within `timeout_s`.

    The engine knows the streams, which Triton's statistics do not tell.
    Triton counts a cancelled request as in flight until the engine has made its tokens, in an engine that hangs for
    ever. So the server also counts as idle when no client is connected, or when the ledger has no request that may be
    in flight. Triton's own wait at SIGTERM is no alternative: it refuses new connections without an error, and waits
    for idle connections.
    """
    deadline = time.monotonic() + timeout_s
    idle_since_s = None
    while time.monotonic() < deadline and supervisor.server.is_running:
        supervisor.pulse()
        now = time.monotonic()
        if not _is_idle(supervisor):
            idle_since_s = None
        elif idle_since_s is None:
            idle_since_s = now
        elif now - idle_since_s >= SETTLE_S:
            return True
        time.sleep(POLL_S)
    return False


def wait_while_running(supervisor: Supervisor, delay_s: float) -> None:
    """Wait for `delay_s`, or until the server process ends."""
    end = time.monotonic() + delay_s
    while (left_s := end - time.monotonic()) > 0 and supervisor.server.is_running:
        supervisor.pulse()
        time.sleep(min(left_s, POLL_S))


def _is_idle(supervisor: Supervisor) -> bool:
    if supervisor.server.entry_model == STREAM_MODEL:  # its own connections to tensorrt_llm look like clients'
        return not supervisor.has_in_flight_requests()
    statistics = supervisor.statistics()
    if statistics is not None and statistics.max_in_flight == 0 and not supervisor.engine.has_streams():
        return True
    return not has_clients(supervisor.server) or not supervisor.has_in_flight_requests()


def has_clients(server: TritonServer) -> bool:
    """Whether a process other than this one is connected to the server's HTTP or gRPC port."""
    ports = {server.ports.http, server.ports.grpc}
    try:
        connections = psutil.Process(server.pid).net_connections("tcp")
        own = {connection.laddr for connection in psutil.Process().net_connections("tcp")}
    except psutil.Error:
        return True
    return any(
        connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port in ports and connection.raddr not in own
        for connection in connections
    )
