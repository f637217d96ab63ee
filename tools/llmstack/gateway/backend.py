"""The servers behind the gateway, as the command line names them."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

DEFAULT_READY_PORT, DEFAULT_OPENAI_PORT = 8003, 8005
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?)*")


class BackendError(ValueError):
    """The text of a backend does not have the form host:http:grpc[:ready[:openai]], or that of an address host:port."""


class Backend(NamedTuple):
    """The address of one server. `host` has HAProxy's form: a name, an IPv4 address, or an IPv6 address in brackets."""

    host: str
    http_port: int
    grpc_port: int
    ready_port: int
    openai_port: int = DEFAULT_OPENAI_PORT


class Address(NamedTuple):
    """A host, in the form that `Backend` describes, and a port."""

    host: str
    port: int


def parse_backend(text: str) -> Backend:
    """Parse `host:http:grpc[:ready[:openai]]`; an IPv6 host is in brackets; the last ports default to 8003 and 8005.

    Raises:
        BackendError: the text has another form, or a host or port is invalid.
    """
    host, ports = _split(text, range(2, 5), "host:http:grpc[:ready[:openai]], such as triton-1:8000:8001:8003")
    return Backend(host, *ports, *(DEFAULT_READY_PORT, DEFAULT_OPENAI_PORT)[len(ports) - 2 :])


def parse_address(text: str) -> Address:
    """Parse `host:port`; an IPv6 host is in brackets.

    Raises:
        BackendError: the text has another form, or the host or port is invalid.
    """
    host, (port,) = _split(text, range(1, 2), "host:port, such as openai-1:8005")
    return Address(host, port)


def _split(text: str, counts: range, form: str) -> tuple[str, list[int]]:
    """The host and the ports, of which there are as many as one of `counts` says."""
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)((?::\d{1,5})+)", text, re.ASCII)
    ports = [int(digits) for digits in match[2][1:].split(":")] if match is not None else []
    if match is None or len(ports) not in counts:
        raise BackendError(f"backend {text!r} is not {form}")
    if not _is_host(match[1]):
        raise BackendError(f"backend {text!r}: {match[1]!r} is neither a host name nor an IP address")
    for port in ports:
        if not 1 <= port <= 65_535:
            raise BackendError(f"backend {text!r}: port {port} is not between 1 and 65535")
    return match[1], ports


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return _HOST_NAME.fullmatch(text) is not None
    return True
