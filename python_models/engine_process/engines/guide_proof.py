"""Proves, before an engine serves, that it enforces guides: an engine without a backend drops them silently."""

from __future__ import annotations

import time

from engine_process.engine import Engine, EngineDied, EngineFailure, EngineLoadError, Step
from engine_process.engines.guide_types import LLGUIDANCE
from engine_process.messages import Generate, Guide, Sampling, write_ids

_MAX_TOKENS = 4


async def check_eos_token(engine: Engine, eos_id: int | None, stop_token_ids: list[int]) -> None:
    """Check that the token with which the engine ends a guided completion is one of the release's.

    Raises:
        EngineLoadError: it is not; the engine is closed.
    """
    if eos_id not in stop_token_ids:
        await engine.close()
        raise EngineLoadError(
            f"guided completions end with the tokenizer's eos_token {eos_id}, which is not among the release's "
            f"stop_token_ids {stop_token_ids}"
        )


async def prove_guides(engine: Engine, backend: str, eos_id: int) -> Step:
    """Send a guide that allows one short text, and see the completion end with it. Returns the last step.

    Raises:
        EngineLoadError: the engine fails, or the guide has no effect; the engine is closed.
    """
    last = Step([])
    try:
        async for step in engine.generate(_request(backend, eos_id), time.monotonic_ns()):
            last = step
    except (EngineDied, EngineFailure) as error:
        await engine.close()
        raise EngineLoadError(f"the engine does not answer a guided request: {error}") from error
    if last.finish_reason != "stop":
        await engine.close()
        raise EngineLoadError("the engine does not enforce guides: a completion went on after its guide's end")
    return last


def _request(backend: str, eos_id: int) -> Generate:
    if backend == LLGUIDANCE:
        guide = Guide(backend, "lark_grammar", 'start: "0"\n')
    else:
        guide = Guide(backend, "ebnf_grammar", 'root ::= "0"')
    return Generate(0, write_ids([eos_id]), _MAX_TOKENS, sampling=Sampling(), end_id=eos_id, guide=guide)
