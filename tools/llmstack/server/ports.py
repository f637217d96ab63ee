"""The ports that a server listens on; 0 is any free port."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import NamedTuple

from llmstack.server.error import ServerStartError

_BACKLOG = 128  # connections that wait to be accepted


class Ports(NamedTuple):
    """One port for each protocol. Triton does not support port 0, so `choose` picks a free one before it starts."""

    http: int = 0
    grpc: int = 0
    metrics: int = 0

    def choose(self, host: str) -> Ports:
        """These ports, with a free port in place of each 0.

        Raises:
            ServerStartError: a port is in use, or given twice.
        """
        with ExitStack() as held:  # all at the same time, so that no free port is picked twice
            return Ports(*(_number(_hold(held, host, name, port)) for name, port in self._asdict().items()))


FREE_PORTS = Ports()


def listen(host: str, name: str, port: int) -> socket.socket:
    """A socket of this process that listens on `port`; 0 is any free port.

    Raises:
        ServerStartError: the port is in use.
    """
    with ExitStack() as held:
        listener = _hold(held, host, name, port)
        held.pop_all()
        return listener


def _number(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def _hold(held: ExitStack, host: str, name: str, port: int) -> socket.socket:
    """Listen on `port` until `held` closes; without listening Linux lets two sockets share a port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Triton does after a restart
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        raise _port_error(host, name, port, error) from None
    return listener


def _port_error(host: str, name: str, port: int, error: OSError) -> ServerStartError:
    flag, variable = f"--{name}-port", f"LLMSTACK_{name.upper()}_PORT"
    return ServerStartError(
        f"{flag} {port} can't be opened on {host}: {(error.strerror or str(error)).lower()}",
        f"stop what listens there, or give {flag} (or {variable}) another port; 0 picks a free one",
    )
