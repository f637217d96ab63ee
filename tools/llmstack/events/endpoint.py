"""The webhooks that receive events: a fixed list from the configuration. No event or response can add a URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from llm_policy.ledger.outbox import ENDPOINTS
from llmstack.events.secret_file import SecretFile, WebhookConfigurationError


@dataclass(frozen=True)
class Endpoint:
    """One webhook. The path of its URL may be secret, so logs show `origin` only."""

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
    """The names of the endpoints that have a URL."""
    return [name for name in ENDPOINTS if environment.get(url_variable(name), "").strip()]


def read_endpoints(environment: Mapping[str, str]) -> list[Endpoint]:
    """The endpoints that have a URL, validated, with their secrets.

    Raises:
        WebhookConfigurationError: a URL or a secret can't be used.
    """
    return [_read_endpoint(name, environment) for name in configured_names(environment)]


def _read_endpoint(name: str, environment: Mapping[str, str]) -> Endpoint:
    url = check_url(environment[url_variable(name)].strip(), url_variable(name))
    path = environment.get(secret_variable(name), "").strip()
    if not path:
        raise WebhookConfigurationError(
            f"{url_variable(name)} is set, but {secret_variable(name)} is not: unsigned events are never sent",
            f"set {secret_variable(name)} to a file with a secret, or unset the URL",
        )
    return Endpoint(name, url, SecretFile(Path(path)))


def check_url(url: str, variable: str) -> str:
    """Return `url` if events may be sent there; `variable` names its source in errors.

    Raises:
        WebhookConfigurationError: states the problem without quoting the URL, which may hold a secret.
    """
    try:
        problem = _url_problem(httpx.URL(url)) if url.isprintable() and " " not in url else "is not a valid URL"
    except (httpx.InvalidURL, ValueError):
        problem = "is not a valid URL"
    if problem:
        raise WebhookConfigurationError(f"{variable} {problem}", f"set {variable} to a URL such as https://host/path")
    return url


def _url_problem(url: httpx.URL) -> str:
    if url.scheme not in ("http", "https"):
        return "must begin with https:// or http://"
    if not url.host:
        return "has no host"
    if url.port is not None and not 0 < url.port < 65536:
        return "has an invalid port"
    if url.userinfo:
        return "must not contain a user or a password: the signature identifies the sender"
    if url.fragment:
        return "must not have a part after #"
    return ""


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"
