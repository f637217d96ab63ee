"""The interface of an engine behind the protocol. A new engine implements `Engine` and has a line in `create`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from engine_process.messages import Capabilities, Generate


class EngineFailure(Exception):
    """A request fails in the engine. `code` is one of the policy's error codes; the text never quotes the request."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class EngineDied(Exception):
    """The engine can serve no further request: its process ends, and the parent starts another."""


class EngineLoadError(Exception):
    """The engine can't load the release, or would serve it otherwise than it says; the text says why."""


@dataclass(frozen=True)
class EngineSettings:
    """What the release and the operator say to an engine.

    `release` is the directory with the manifest, `options` are the operator's own (`--engine-option`). `max_batch_size`
    is the number of requests that run together, `max_mask_ms` the limit for a guide's token mask.
    """

    release: Path
    max_batch_size: int
    max_mask_ms: float
    options: Mapping[str, str]

    @property
    def engine_dir(self) -> Path:
        """The directory with the model."""
        return self.release / "engine"

    @property
    def tokenizer_dir(self) -> Path:
        """The directory with the tokenizer."""
        return self.release / "tokenizer"


class Clocks(NamedTuple):
    """Nanoseconds of the monotonic clock; 0 where a request never got there."""

    first_scheduled_ns: int
    first_token_ns: int
    last_token_ns: int


@dataclass(frozen=True)
class Step:
    """New tokens of one request, possibly none.

    `log_probs` has one for each token if the request asked for them. `clocks` are known so far; the last step's are
    final. `finish_reason` is `stop` or `length` in the last step, and None before.
    """

    token_ids: list[int]
    log_probs: list[float] | None = None
    clocks: Clocks | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Engine(Protocol):
    """One engine. Everything is called on one asyncio loop, which it must not block."""

    handles_sequences: bool
    """Whether it ends at stop sequences of several tokens by itself."""
    schedules_tenants: bool
    """Whether it shares its slots between tenants, and lets the canary pass, by itself."""

    async def load(self, settings: EngineSettings) -> Capabilities:
        """Load the release's model.

        Raises:
            EngineLoadError: it can't be served.
        """

    def generate(self, request: Generate, arrival_ns: int) -> AsyncGenerator[Step, None]:
        """The steps of one request. Closing the iterator aborts it.

        Raises:
            EngineFailure: the request fails.
            EngineDied: every request fails, and no other can be served.
        """

    def last_step_ns(self) -> int:
        """When the engine last made progress with any request, on the monotonic clock."""

    async def close(self) -> None:
        """Free everything."""
