"""The live server that a proof is about: one that runs, or one started for it. It must serve exactly this release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import httpx
import typer
from rich.console import Console

from llm_policy.metrics.metrics import exposition
from llm_policy.release.release import Release
from llm_policy.rules.headers import ENGINE_HASH, QUANTISATION, TENANT
from llmstack.cli.serve_options import EngineChoice
from llmstack.cli.server_start import start_visibly
from llmstack.client.ensemble_client import Headers, ServerUrls
from llmstack.server.error import ServerStartError
from llmstack.server.process import TritonServer
from llmstack.server.release import open_release, pick_engine

TIMEOUT_S = 10.0
PROOF_TENANT = "llmstack-proof"

HttpUrl = Annotated[str, typer.Option(envvar="LLMSTACK_HTTP_URL", help="Triton's HTTP protocol of the live server.")]
GrpcUrl = Annotated[str, typer.Option(envvar="LLMSTACK_GRPC_URL", help="Triton's gRPC protocol of the live server.")]
MetricsUrl = Annotated[str, typer.Option(envvar="LLMSTACK_METRICS_URL", help="Its metrics.")]
ReadyUrl = Annotated[str, typer.Option(envvar="LLMSTACK_READY_URL", help="Its /readyz, which names what it serves.")]
Serve = Annotated[
    bool, typer.Option("--serve", help="Start a server of this release on free ports instead, and stop it at the end.")
]
DEFAULT_HTTP_URL, DEFAULT_GRPC_URL = "http://127.0.0.1:8000", "127.0.0.1:8001"
DEFAULT_METRICS_URL, DEFAULT_READY_URL = "http://127.0.0.1:8002/metrics", "http://127.0.0.1:8003/readyz"


class Target(NamedTuple):
    """A live server of `release`; `state_dir` is that of a server started for the proof."""

    release: Release
    server: ServerUrls
    metrics_url: str
    state_dir: Path | None = None

    @property
    def headers(self) -> Headers:
        """What admits a request to it; its tenant tells the proof's requests apart."""
        engine = self.release.manifest.engine
        return {ENGINE_HASH: engine.hash, QUANTISATION: engine.quantisation, TENANT: PROOF_TENANT}

    def policy_metrics(self) -> str:
        """The Prometheus text of what the policy counts.

        Raises:
            httpx.HTTPError: it can't be had.
        """
        if self.state_dir is not None:
            return exposition(self.state_dir).decode()
        return httpx.get(self.metrics_url, timeout=TIMEOUT_S, trust_env=False).raise_for_status().text


@contextmanager
def live_target(
    release_dir: Path, serve: bool, engine: EngineChoice, http_url: str, grpc_url: str, metrics_url: str, ready_url: str
) -> Iterator[Target]:
    """The target that a command's options name.

    Raises:
        ServerStartError: the release's files are not its manifest's, no server answers, or it serves something else.
    """
    release = open_release(release_dir)
    if not serve:
        check_engine(_check_served(release, ready_url))
        yield Target(release, ServerUrls(http_url.rstrip("/"), grpc_url), metrics_url)
        return
    server = TritonServer(
        release_dir=release.directory, engine=check_engine(engine.value if engine else pick_engine(release))
    )
    try:
        server.start()
        start_visibly(server, Console(stderr=True, highlight=False))
        yield Target(release, ServerUrls(server.http_url, server.grpc_url), server.metrics_url, server.state_dir)
    finally:
        server.stop()


def check_engine(engine: str) -> str:
    """The name of an engine that really runs the release.

    Raises:
        ServerStartError: it is the one that does not.
    """
    if engine == "echo":
        raise ServerStartError(
            "the echo engine answers with fixed tokens: that proves nothing of a release",
            "use the release's own engine",
        )
    return engine


def _check_served(release: Release, ready_url: str) -> str:
    """The engine of the server behind `ready_url`, which serves the release and is ready."""
    document = _readyz(ready_url)
    ours = {"engine_hash": release.manifest.engine.hash, "manifest_hash": release.manifest_hash}
    if differs := {key: document.get(key) for key, value in ours.items() if document.get(key) != value}:
        told = ", ".join(f"{key} {value}" for key, value in differs.items())
        raise ServerStartError(
            f"the server behind {ready_url} serves another release than {release.directory}: {told}",
            f"start `llmstack serve --release {release.directory}` beside it on other ports, or give --serve",
        )
    if document.get("ready") is not True:
        raise ServerStartError(f"the server is not ready: {document.get('reasons')}", "llmstack ready shows when it is")
    return str(document.get("engine"))


def _readyz(url: str) -> dict[str, Any]:
    try:
        document = httpx.get(url, timeout=TIMEOUT_S, trust_env=False).json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ServerStartError(
            f"{url} can't be asked: {error}", "start `llmstack serve`, give --ready-url, or give --serve"
        ) from None
    return document if isinstance(document, dict) else {}
