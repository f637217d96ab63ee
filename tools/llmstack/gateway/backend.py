"""One server behind the gateway."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

READY_PORT = 8003
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?)*")


class BackendError(ValueError):
    """A backend is not written as host:http:grpc[:ready]."""


class Backend(NamedTuple):
    """Where one server listens. `host` is as HAProxy takes it: a name, an IPv4 address, or IPv6 in brackets."""

    host: str
    http_port: int
    grpc_port: int
    ready_port: int


def parse_backend(text: str) -> Backend:
    """`host:http:grpc[:ready]`, an IPv6 host in brackets.

    Raises:
        BackendError: it is not written like that.
    """
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*):(\d{1,5}):(\d{1,5})(?::(\d{1,5}))?", text, re.ASCII)
    if match is None:
        raise BackendError(f"backend {text!r} is not host:http:grpc[:ready], such as triton-1:8000:8001:8003")
    host, *ports = match.groups(default=str(READY_PORT))
    if not _is_host(host):
        raise BackendError(f"backend {text!r}: {host!r} is no host name and no address")
    return Backend(host, *(_port(port, text) for port in ports))


def _port(digits: str, text: str) -> int:
    if not 1 <= int(digits) <= 65_535:
        raise BackendError(f"backend {text!r}: port {digits} is not between 1 and 65535")
    return int(digits)


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    return True
