"""How the board is reached: the host names that it answers to, and the forms that are its own."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# What proves itself by a signature or a token, or tells nothing, may be called by any name.
_MACHINES = ("/webhooks", "/healthz")
_MACHINES_PREFIX = "/api/"


class SiteError(ValueError):
    """This is no URL by which a board can be reached; the text says why."""


class Site:
    """The board as browsers reach it: at `public_url`, and on its own machine by a loopback name and any port.

    Raises:
        SiteError: `public_url` has no host, or more than scheme, host and port.
    """

    def __init__(self, public_url: str) -> None:
        parts = _split(public_url)
        if parts is None or parts.scheme not in _DEFAULT_PORTS or parts.path.strip("/") or parts.query:
            raise SiteError(f"{public_url!r} is no URL such as https://board.example")
        self.scheme = parts.scheme
        self.origin = _origin(parts)
        self._names = {parts.hostname, *LOOPBACK_NAMES}

    @property
    def is_https(self) -> bool:
        """Whether cookies may insist on it."""
        return self.scheme == "https"

    @property
    def cookie(self) -> str:
        """The session cookie's name; its prefix binds it to this very host."""
        return "__Host-llmstack_board" if self.is_https else "llmstack_board"

    def answers_to(self, host: str) -> bool:
        """Whether a request's Host header names the board: no other site's name may lead here."""
        parts = _split(f"{self.scheme}://{host}")
        return parts is not None and parts.netloc == host and parts.hostname in self._names

    def sent(self, origin: str, host: str) -> bool:
        """Whether a form of this Origin is of a page of ours, reached by the Host `host`: a tunnel has its own port."""
        parts, own = _split(origin), _split(f"{self.scheme}://{host}")
        return parts is not None and _origin(parts) in (self.origin, _origin(own) if own else self.origin)


class HostCheck:
    """ASGI middleware that answers pages by the names of `site` alone."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app, self._site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or refuse it."""
        if scope["type"] == "http" and not self._passes(scope):
            text = "this board does not answer to that host name: see --public-url\n"
            return await PlainTextResponse(text, 400)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _passes(self, scope: Scope) -> bool:
        path = scope["path"]
        is_machines = path in _MACHINES or path.startswith(_MACHINES_PREFIX)
        return is_machines or self._site.answers_to(Headers(scope=scope).get("host", ""))


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def url_of(host: str, port: int) -> str:
    """Plain HTTP to an address and port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _split(url: str) -> SplitResult | None:
    """A URL with a host and a port that is one, and no user; None for anything else."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 and "@" not in parts.netloc else None
    except ValueError:
        return None


def _origin(parts: SplitResult) -> str:
    """As browsers write it: lower case, without the scheme's own port."""
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"
