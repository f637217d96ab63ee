"""The no-op engine: fixed tokens at once or at a fixed pace, so that measurements show the policy's cost alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from functools import lru_cache

from engine_process.engine import Clocks, EngineSettings, Step
from engine_process.engines.options import parse_options
from engine_process.messages import Capabilities, Generate
from portable_engine.guide_types import GUIDE_TYPES

# Letters have low ids in every byte-level vocabulary.
FIRST_TOKEN_ID = 64
NUM_TOKEN_IDS = 26
TOKEN_INTERVAL = "token_interval_ms"  # noqa: S105 - an option's name


class EchoEngine:
    """Returns `max_tokens` fixed tokens. It ignores guides.

    Without the option `token_interval_ms` they come at the time of their request's arrival; with it the first one does,
    and each other one so many milliseconds after the one before.
    """

    handles_sequences = True
    schedules_tenants = True

    def __init__(self) -> None:
        self._interval_s = 0.0

    async def load(self, settings: EngineSettings) -> Capabilities:
        """Nothing is loaded, and nothing limits a request."""
        annotations = {TOKEN_INTERVAL: float}
        options = parse_options(settings.options, annotations, allowed=annotations, fixed={}, choices={})
        self._interval_s = options.get(TOKEN_INTERVAL, 0.0) / 1_000
        return Capabilities(settings.max_batch_size, 0, 0, list(GUIDE_TYPES))

    async def generate(self, request: Generate, arrival_ns: int) -> AsyncGenerator[Step, None]:
        """One step with all tokens, or a step for each token where they have a pace."""
        token_ids, clocks = _token_ids(request.max_tokens), Clocks(arrival_ns, arrival_ns, arrival_ns)
        if not self._interval_s:
            yield Step(token_ids, None, clocks, "length")
            return
        for number, token_id in enumerate(token_ids):
            due_ns = arrival_ns + round(number * self._interval_s * 1e9)
            await asyncio.sleep(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            clocks = clocks._replace(last_token_ns=time.monotonic_ns())
            yield Step([token_id], None, clocks, "length" if number == len(token_ids) - 1 else None)

    def last_step_ns(self) -> int:
        """It never has anything to do."""
        return time.monotonic_ns()

    async def close(self) -> None:
        """There is nothing to free."""


@lru_cache(maxsize=64)
def _token_ids(num_tokens: int) -> list[int]:
    return [FIRST_TOKEN_ID + number % NUM_TOKEN_IDS for number in range(num_tokens)]
