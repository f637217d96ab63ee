"""The no-op engine: as many tokens as a request may have, immediately."""

import asyncio
from pathlib import Path

from engine_process.engine import EngineSettings
from engine_process.engines.echo import EchoEngine
from engine_process.messages import Generate, write_ids
from portable_engine.guide_types import GUIDE_TYPES

ARRIVAL_NS = 1_000


async def steps(max_tokens):
    return [step async for step in EchoEngine().generate(Generate(1, write_ids([1]), max_tokens), ARRIVAL_NS)]


def test_a_request_gets_as_many_tokens_as_it_may_have():
    (step,) = asyncio.run(steps(30))
    assert step.token_ids[:3] == [64, 65, 66]
    assert step.token_ids[26:] == [64, 65, 66, 67]
    assert step.finish_reason == "length"


def test_the_clocks_are_those_of_the_arrival():
    (step,) = asyncio.run(steps(1))
    assert set(step.clocks) == {ARRIVAL_NS}


def test_it_takes_guides_of_every_type_and_limits_nothing():
    capabilities = asyncio.run(EchoEngine().load(EngineSettings(Path(), 64, 5.0, {})))
    assert capabilities.guide_types == list(GUIDE_TYPES)
    assert (capabilities.max_batch_size, capabilities.max_model_len, capabilities.vocab_size) == (64, 0, 0)
