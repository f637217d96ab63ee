"""Whether a server requires an API key with each request."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable


def requires_keys(choice: bool | None, host: str) -> bool:
    """The operator's choice; without one, keys are required unless only this machine can reach the server."""
    return choice if choice is not None else not is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`, an address or a name.

    A name that can't be resolved counts as public.
    """
    addresses = set(_addresses(host))
    return bool(addresses) and all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _addresses(host: str) -> Iterable[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return (str(address[0]).split("%")[0] for *_, address in found)
