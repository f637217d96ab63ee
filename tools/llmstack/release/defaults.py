"""Defaults of the release commands. A light module: the options of commands are made of it."""

from __future__ import annotations

from typing import NamedTuple

NUM_SIGN_OFFS = 2  # unless LLMSTACK_REQUIRED_SIGN_OFFS configures another number
PROMPT_TOKENS = (16, 256, 1_024, 4_096)


class LiveServerUrls(NamedTuple):
    """Where a running service answers."""

    http: str = "http://127.0.0.1:8000"
    grpc: str = "127.0.0.1:8001"
    metrics: str = "http://127.0.0.1:8002/metrics"
    ready: str = "http://127.0.0.1:8003/readyz"


DEFAULT_URLS = LiveServerUrls()
