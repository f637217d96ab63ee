"""Where events go: a fixed list from the configuration. No event and no answer can add a URL to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from llm_policy.ledger.outbox import ENDPOINTS
from llmstack.events.secret_file import SecretFile
from llmstack.events.webhook_error import WebhookConfigurationError


@dataclass(frozen=True)
class Endpoint:
    """One webhook. The path of its URL may be a secret too: only `origin` is fit for a log."""

    name: str
    url: str = field(repr=False)
    secrets: SecretFile

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return _origin(httpx.URL(self.url))


def url_variable(endpoint: str) -> str:
    """The environment variable with the URL of `endpoint`."""
    return f"LLMSTACK_{endpoint.upper()}_WEBHOOK_URL"


def secret_variable(endpoint: str) -> str:
    """The environment variable that names the file with the secrets of `endpoint`."""
    return f"LLMSTACK_{endpoint.upper()}_WEBHOOK_SECRET_FILE"


def configured_names(environment: Mapping[str, str]) -> list[str]:
    """The endpoints that have a URL."""
    return [name for name in ENDPOINTS if environment.get(url_variable(name), "").strip()]


def read_endpoints(environment: Mapping[str, str]) -> list[Endpoint]:
    """The endpoints that have a URL, checked, with their secrets.

    Raises:
        WebhookConfigurationError: a URL or a secret can't be used.
    """
    return [_read_endpoint(name, environment) for name in configured_names(environment)]


def _read_endpoint(name: str, environment: Mapping[str, str]) -> Endpoint:
    url = check_url(environment[url_variable(name)].strip(), url_variable(name))
    path = environment.get(secret_variable(name), "").strip()
    if not path:
        raise WebhookConfigurationError(
            f"{url_variable(name)} is set, but {secret_variable(name)} is not: nothing is sent unsigned",
            f"set {secret_variable(name)} to a file with a secret, or unset the URL",
        )
    return Endpoint(name, url, SecretFile(Path(path)))


def check_url(url: str, variable: str) -> str:
    """`url`, if events may be sent there.

    Raises:
        WebhookConfigurationError: says what is wrong, without the URL: it may hold a secret.
    """
    try:
        wrong = _fault(httpx.URL(url)) if url.isprintable() and " " not in url else "is no URL"
    except (httpx.InvalidURL, ValueError):
        wrong = "is no URL"
    if wrong:
        raise WebhookConfigurationError(f"{variable} {wrong}", f"set {variable} to a URL such as https://host/path")
    return url


def _fault(url: httpx.URL) -> str:
    if url.scheme not in ("http", "https"):
        return "must begin with https:// or http://"
    if not url.host:
        return "names no host"
    if url.port is not None and not 0 < url.port < 65536:
        return "has a port that is none"
    if url.userinfo:
        return "must not hold a user or a password: the signature says who sends"
    if url.fragment:
        return "must not have a part after #"
    return ""


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"
