"""The orderly end: new requests are refused, those under way are answered, then the server stops."""

from __future__ import annotations

import time

import psutil

from llmstack.server.process import TritonServer
from llmstack.supervision.supervisor import Supervisor

POLL_S = 0.25
# Long enough for a request that preprocess let through just before it saw the mark to show in the statistics.
SETTLE_S = 1.0


def wait_until_idle(supervisor: Supervisor, timeout_s: float) -> bool:
    """Whether every request under way got its answer within `timeout_s`.

    Triton counts a cancelled call as ended when its tokens are made, in an engine that hangs never; that no client is
    connected any more is as good, and so is that the ledger knows of no call that may still be under way. Triton's own
    wait at SIGTERM would refuse new connections without a word, and would wait for idle ones.
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


def serve_on(supervisor: Supervisor, delay_s: float) -> None:
    """Go on as before for `delay_s`, while there is a server."""
    end = time.monotonic() + delay_s
    while (left_s := end - time.monotonic()) > 0 and supervisor.server.is_running:
        supervisor.pulse()
        time.sleep(min(left_s, POLL_S))


def _is_idle(supervisor: Supervisor) -> bool:
    statistics = supervisor.statistics()
    if statistics is not None and statistics.max_in_flight == 0:
        return True
    return not has_clients(supervisor.server) or not supervisor.has_in_flight_requests()


def has_clients(server: TritonServer) -> bool:
    """Whether anybody but this process is connected to the server's protocols."""
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
