"""Requests to an engine of another package, and what becomes of them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from engine_process.engine import Engine, EngineFailure, Step
from engine_process.messages import Generate, write_ids
from tests.unit.engine_process.engines.release_directory import EOS_ID


def request(ids: Any = (1, 2, 3), max_tokens: int = 4, end_id: int = EOS_ID, **fields: Any) -> Generate:
    return Generate(7, write_ids(ids), max_tokens, end_id=end_id, **fields)


def run(engine: Engine, message: Generate) -> list[Step]:
    """All steps of a request."""

    async def collect() -> list[Step]:
        return [step async for step in engine.generate(message, time.monotonic_ns())]

    return asyncio.run(collect())


def failure_of(engine: Engine, message: Generate) -> EngineFailure:
    with pytest.raises(EngineFailure) as failure:
        run(engine, message)
    return failure.value
