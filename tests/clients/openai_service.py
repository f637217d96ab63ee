"""A live service of the embedded release with the OpenAI API."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.integration.live_service import HOST, LiveService, wait_until


@contextlib.contextmanager
def serve_openai(directory: Path, *options: str) -> Iterator[LiveService]:
    """`llmstack serve`, with further options, from the time when its OpenAI API answers."""
    with LiveService(directory, "embedded", None, *options, serves_openai=True) as live:
        wait_until(lambda: _is_answering(live), 60, live.output)
        yield live


def base_url(service: LiveService) -> str:
    """What a client of OpenAI takes as its base URL."""
    return f"http://{HOST}:{service.openai_port}/v1"


def model_name(service: LiveService) -> str:
    """The name of the release's model."""
    return str(httpx.get(f"{base_url(service)}/models", timeout=10).json()["data"][0]["id"])


def _is_answering(service: LiveService) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://{HOST}:{service.openai_port}/healthz", timeout=10).status_code == 200
    return False
