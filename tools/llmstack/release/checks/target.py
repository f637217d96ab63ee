"""The live server that a release check runs against: a running one, or one started for the check.

It must serve exactly the release that is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from llm_policy.metrics.exposition import exposition
from llm_policy.release.release import Release
from llm_policy.rules.headers import TENANT
from llmstack.client.ensemble_client import Headers, ServerUrls, release_headers
from llmstack.release.defaults import DEFAULT_URLS as DEFAULT_URLS
from llmstack.release.defaults import LiveServerUrls as LiveServerUrls
from llmstack.server.error import ServerStartError
from llmstack.server.process import TritonServer
from llmstack.server.release import open_release, pick_engine

TIMEOUT_S = 10.0
CHECK_TENANT = "llmstack-proof"  # the tenant of a check's requests in ledger and metrics


class Target(NamedTuple):
    """A live server of `release`; `state_dir` is set for a server started for the check.

    The requests are those of the tenant of `api_key`, without one those of `CHECK_TENANT`.
    """

    release: Release
    server: ServerUrls
    metrics_url: str
    state_dir: Path | None = None
    api_key: str = ""

    @property
    def headers(self) -> Headers:
        """The headers of a check's requests."""
        headers = release_headers(self.release, self.api_key)
        return headers if self.api_key else {**headers, TENANT: CHECK_TENANT}

    def policy_metrics(self) -> str:
        """The policy's metrics in the Prometheus text format.

        Raises:
            httpx.HTTPError: the metrics page does not answer.
        """
        if self.state_dir is not None:
            return exposition(self.state_dir).decode()
        return httpx.get(self.metrics_url, timeout=TIMEOUT_S, trust_env=False).raise_for_status().text


@contextmanager
def live_target(
    release_dir: Path,
    urls: LiveServerUrls | None,
    engine: str | None,
    wait_ready: Callable[[TritonServer], None],
    api_key: str = "",
) -> Iterator[Target]:
    """The running service at `urls`, or without `urls` a server started on free ports and stopped at the end.

    `engine` runs a started server, the release's own without it. `wait_ready` waits for it and may show progress. A
    running service gets `api_key`; a started one requires none.

    Raises:
        ServerStartError: the release's files differ from its manifest, no server answers, or it serves another release.
    """
    release = open_release(release_dir)
    if urls is not None:
        check_engine(_served_engine(release, urls.ready, has_key=bool(api_key)))
        yield Target(release, ServerUrls(urls.http.rstrip("/"), urls.grpc), urls.metrics, api_key=api_key)
        return
    server = TritonServer(release_dir=release.directory, engine=check_engine(engine or pick_engine(release)))
    try:
        server.start()
        wait_ready(server)
        yield Target(release, ServerUrls(server.http_url, server.grpc_url), server.metrics_url, server.state_dir)
    finally:
        server.stop()


def check_engine(engine: str) -> str:
    """`engine`, if it runs the release's model.

    Raises:
        ServerStartError: it is the echo engine.
    """
    if engine == "echo":
        raise ServerStartError(
            "the echo engine answers with fixed tokens: its answers say nothing about a release",
            "use the release's own engine",
        )
    return engine


def _served_engine(release: Release, ready_url: str, *, has_key: bool) -> str:
    """The engine of the service behind `ready_url`, which must serve the release, be ready and take requests."""
    document = _readyz(ready_url)
    expected = {"engine_hash": release.manifest.engine.hash, "manifest_hash": release.manifest_hash}
    if served := {key: document.get(key) for key, value in expected.items() if document.get(key) != value}:
        hashes = ", ".join(f"{key} {value}" for key, value in served.items())
        raise ServerStartError(
            f"the server behind {ready_url} serves another release than {release.directory}: {hashes}",
            f"start `llmstack serve --release {release.directory}` beside it on other ports, or give --serve",
        )
    if document.get("ready") is not True:
        raise ServerStartError(f"the server is not ready: {document.get('reasons')}", "llmstack ready shows when it is")
    if document.get("api_keys_required") is True and not has_key:
        raise ServerStartError(
            f"the server behind {ready_url} requires API keys",
            "set LLMSTACK_API_KEY to a tenant's key, or give --serve",
        )
    return str(document.get("engine"))


def _readyz(url: str) -> dict[str, Any]:
    try:
        document = httpx.get(url, timeout=TIMEOUT_S, trust_env=False).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ServerStartError(
            f"{url} does not answer: {error}", "start `llmstack serve`, give --ready-url, or give --serve"
        ) from None
    return document if isinstance(document, dict) else {}
