"""The settings of a service: its server's, its supervision's and its own ports'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llm_policy.release.release import Release
from llmstack.events.endpoint import Endpoint
from llmstack.paths import MODEL_REPOSITORY
from llmstack.server.admin_key import random_admin_key
from llmstack.server.command import UNARY, Tracing
from llmstack.server.process import DEFAULT_START_TIMEOUT_S
from llmstack.server.release import pick_engine


@dataclass(frozen=True)
class ServiceSettings:
    """What an operator may set of a service; a port of 0 is any free one.

    `pick_engine` returns the name of the engine that serves a release; `engine_options` are that engine's own.
    `exit_timeout_s` limits how long a drain waits for requests in flight. `drain_delay_s` is how long new requests are
    still served after /readyz reports a drain. Without an `openai_port` the OpenAI API is not served.
    `metric_tenants` have metrics of their own. With
    `requires_api_keys` a request needs the key of a tenant.
    """

    pick_engine: Callable[[Release], str] = pick_engine
    engine_options: Mapping[str, str] = field(default_factory=dict)
    tensorrt_llm_mode: str = UNARY
    model_repository: Path = MODEL_REPOSITORY
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    ready_port: int = 0
    openai_port: int | None = None
    admin_key: str = field(default_factory=random_admin_key, repr=False)
    requires_api_keys: bool = False
    canary_interval_s: float = 5.0
    start_timeout_s: float = DEFAULT_START_TIMEOUT_S
    exit_timeout_s: float = 30.0
    drain_delay_s: float = 0.0
    tracing: Tracing | None = None
    log_verbose: int = 0
    max_log_bytes: int = 64 << 20
    max_ledger_bytes: int = 10 << 30
    endpoints: Sequence[Endpoint] = ()
    metric_tenants: Sequence[str] = ()
