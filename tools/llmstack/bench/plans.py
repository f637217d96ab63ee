"""What benchmarks measure by default. A light module: the options of commands are made of it."""

from __future__ import annotations

from typing import NamedTuple

COMPLETION_TOKENS = 64
PARTS = ("stack", "stream", "kill", "alone", "restart")
"""In their order: the first start fills the engine's compile cache, and the later ones find it."""
FLOOD_NAMES = (
    "one busy core",
    "requests",
    "refused requests",
    "slow streams",
    "new guides",
    "vanished clients",
    "all at once",
)
"""The names in `tenant_flood.FLOODS`."""


class OpenAIPlan(NamedTuple):
    """What is measured: `rounds` of `num_requests` requests each way, `num_clients` and `num_streams` at once."""

    num_requests: int = 200
    rounds: int = 5
    completion_tokens: int = 16
    num_streams: int = 1_000
    num_clients: int = 16
