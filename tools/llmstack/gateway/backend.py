"""One server behind the gateway."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

DEFAULT_READY_PORT = 8003
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?)*")


class BackendError(ValueError):
    """The text of a backend does not have the form host:http:grpc[:ready]."""


class Backend(NamedTuple):
    """The address of one server. `host` has HAProxy's form: a name, an IPv4 address, or an IPv6 address in brackets."""

    host: str
    http_port: int
    grpc_port: int
    ready_port: int


def parse_backend(text: str) -> Backend:
    """Parse `host:http:grpc[:ready]`; an IPv6 host is in brackets, the ready port is 8003 by default.

    Raises:
        BackendError: the text has another form, or a host or port is invalid.
    """
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*):(\d{1,5}):(\d{1,5})(?::(\d{1,5}))?", text, re.ASCII)
    if match is None:
        raise BackendError(f"backend {text!r} is not host:http:grpc[:ready], such as triton-1:8000:8001:8003")
    host, *ports = match.groups(default=str(DEFAULT_READY_PORT))
    if not _is_host(host):
        raise BackendError(f"backend {text!r}: {host!r} is neither a host name nor an IP address")
    return Backend(host, *(_parse_port(port, text) for port in ports))


def _parse_port(digits: str, text: str) -> int:
    if not 1 <= int(digits) <= 65_535:
        raise BackendError(f"backend {text!r}: port {digits} is not between 1 and 65535")
    return int(digits)


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    return True
