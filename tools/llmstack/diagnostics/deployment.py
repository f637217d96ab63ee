"""The deployment that the checks examine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from llmstack.diagnostics.image_tag import ImageTag


class Deployment(NamedTuple):
    """What `llmstack serve` would use: paths, engine, addresses and environment variables.

    `engine_options` are the engine's own, as `KEY=VALUE`. `ports` maps http, grpc, metrics and ready to a port; 0 is
    any free one. `image` is None for the image that this process runs in.
    """

    release_dir: Path
    engine: str
    engine_options: Sequence[str]
    state_dir: Path
    model_repository: Path
    host: str
    ports: Mapping[str, int]
    image: ImageTag | None
    connects_to_webhooks: bool
    environment: Mapping[str, str]
    requires_api_keys: bool = False
