"""A closed loop of clients that stream over gRPC: when their tokens came."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import NamedTuple

from llmstack.bench.load import LoadError, Workload
from llmstack.bench.token_times import TokenTimes
from llmstack.client.ensemble_client import Headers, Server
from llmstack.client.stream_client import STREAM_MODEL, Piece, open_streams, stream_grpc


class Streamed(NamedTuple):
    """One answer: when its tokens came, and its last response."""

    times: TokenTimes
    last: Piece


def stream_load(
    server: Server, headers: Headers, workload: Workload, model: str = STREAM_MODEL, ramp_s: float = 0.0
) -> list[Streamed]:
    """Stream the workload's answers. The clients begin spread over `ramp_s`; each sends the next request in turn.

    Raises:
        LoadError: a request got an error, or its stream ended without a last response.
    """
    return asyncio.run(_stream_all(server, headers, workload, model, ramp_s))


async def _stream_all(
    server: Server, headers: Headers, workload: Workload, model: str, ramp_s: float
) -> list[Streamed]:
    numbers = iter(range(workload.num_requests))
    answers: list[Streamed] = []
    async with open_streams(server) as client:

        async def work(delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            answers.extend(
                [await _stream(stream_grpc(client, workload.inputs_of(number), headers, model)) for number in numbers]
            )

        pauses = (ramp_s * number / workload.concurrency for number in range(workload.concurrency))
        await asyncio.gather(*(work(pause_s) for pause_s in pauses))
    return answers


async def _stream(pieces: AsyncGenerator[Piece, None]) -> Streamed:
    times, last = TokenTimes(), None
    async with contextlib.aclosing(pieces):
        async for piece in pieces:  # until Triton ends the call: one that is cancelled then delays the server's end
            if piece.error:
                raise LoadError(piece.error)
            times.add(int(piece.first("num_output_tokens") or 0) - times.num_tokens, piece.received_s)
            last = piece if piece.is_last else None
    if last is None:
        raise LoadError("a stream ended without a last response")
    return Streamed(times, last)
