"""The board's public URL: the host names that it answers to and the origins that it accepts forms from."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Paths that any host name may be used for: they need a signature or a token, or reveal nothing.
_MACHINE_PATHS = ("/webhooks", "/healthz")
_MACHINE_PREFIX = "/api/"


class PublicUrlError(ValueError):
    """The public URL is not valid; the text says why."""


class PublicUrl:
    """The URL that browsers use. Loopback names with any port are accepted too.

    Raises:
        PublicUrlError: `url` has no host, or more than scheme, host and port.
    """

    def __init__(self, url: str) -> None:
        parts = _split(url)
        if parts is None or parts.scheme not in _DEFAULT_PORTS or parts.path.strip("/") or parts.query:
            raise PublicUrlError(f"{url!r} is not a URL such as https://board.example")
        self.scheme = parts.scheme
        self.origin = _origin(parts)
        self._hosts = {parts.hostname, *LOOPBACK_NAMES}

    @property
    def is_https(self) -> bool:
        """Whether cookies can require HTTPS."""
        return self.scheme == "https"

    @property
    def cookie_name(self) -> str:
        """The session cookie's name. The prefix `__Host-` binds the cookie to this host."""
        return "__Host-llmstack_board" if self.is_https else "llmstack_board"

    def allows_host(self, host: str) -> bool:
        """Whether a request's Host header names the board. The check prevents DNS rebinding."""
        parts = _split(f"{self.scheme}://{host}")
        return parts is not None and parts.netloc == host and parts.hostname in self._hosts

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a form's Origin header is the board's own.

        A tunnel has a port of its own, so the origin may also match the request's Host header, `host`.
        """
        parts, own = _split(origin), _split(f"{self.scheme}://{host}")
        return parts is not None and _origin(parts) in (self.origin, _origin(own) if own else self.origin)


class HostCheckMiddleware:
    """ASGI middleware that serves pages only under the host names of `public_url`."""

    def __init__(self, app: ASGIApp, public_url: PublicUrl) -> None:
        self._app, self._public_url = app, public_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or reject it with 400."""
        if scope["type"] == "http" and not self._is_allowed(scope):
            text = "this board does not answer to that host name: see --public-url\n"
            return await PlainTextResponse(text, 400)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        path = scope["path"]
        is_machine_path = path in _MACHINE_PATHS or path.startswith(_MACHINE_PREFIX)
        return is_machine_path or self._public_url.allows_host(Headers(scope=scope).get("host", ""))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address `host`."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def http_url(host: str, port: int) -> str:
    """The plain HTTP URL of an address and port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _split(url: str) -> SplitResult | None:
    """The parts of a URL with a host, a valid port and no user; None for anything else."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 and "@" not in parts.netloc else None
    except ValueError:
        return None


def _origin(parts: SplitResult) -> str:
    """The origin as browsers write it: lower case, without the scheme's default port."""
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"
