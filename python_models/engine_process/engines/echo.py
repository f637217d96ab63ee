"""The no-op engine: returns fixed tokens immediately, so that measurements show the policy's cost alone."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from functools import lru_cache

from engine_process.engine import Clocks, EngineSettings, Step
from engine_process.messages import Capabilities, Generate
from portable_engine.guide_types import GUIDE_TYPES

# Letters have low ids in every byte-level vocabulary.
FIRST_TOKEN_ID = 64
NUM_TOKEN_IDS = 26


class EchoEngine:
    """Returns `max_tokens` fixed tokens at the time of their request's arrival. It ignores guides."""

    handles_sequences = True
    schedules_tenants = True

    async def load(self, settings: EngineSettings) -> Capabilities:
        """Nothing is loaded, and nothing limits a request."""
        return Capabilities(settings.max_batch_size, 0, 0, list(GUIDE_TYPES))

    async def generate(self, request: Generate, arrival_ns: int) -> AsyncGenerator[Step, None]:
        """One step with all tokens."""
        yield Step(_token_ids(request.max_tokens), None, Clocks(arrival_ns, arrival_ns, arrival_ns), "length")

    def last_step_ns(self) -> int:
        """It never has anything to do."""
        return time.monotonic_ns()

    async def close(self) -> None:
        """There is nothing to free."""


@lru_cache(maxsize=64)
def _token_ids(num_tokens: int) -> list[int]:
    return [FIRST_TOKEN_ID + number % NUM_TOKEN_IDS for number in range(num_tokens)]
