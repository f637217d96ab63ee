"""Clients of `ensemble_stream`: server-sent events over HTTP `/generate_stream`, and gRPC `ModelStreamInfer`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from typing import Any, NamedTuple

import httpx
import tritonclient.grpc.aio as triton_grpc_aio

from llm_policy.errors import find_code
from llmstack.client.ensemble_client import (
    TIMEOUT_S,
    Headers,
    Inputs,
    Reply,
    Server,
    grpc_tensor,
    plain,
    tls_verification,
)

STREAM_MODEL = "ensemble_stream"
_EVENT = "data: "


class Piece(NamedTuple):
    """One response of a stream: outputs by name, or the error's text; when it came, on the performance counter.

    `status` is that of HTTP, which the first response decides; 0 over gRPC.
    """

    outputs: Mapping[str, list[Any]]
    error: str
    received_s: float
    status: int = 0

    @property
    def text(self) -> str:
        """The new text."""
        return str(self.first("text_output") or "")

    @property
    def is_last(self) -> bool:
        """Whether the stream ends here."""
        return bool(self.error or self.first("is_last"))

    @property
    def code(self) -> str:
        """The error code at the start of an error's text; empty if there is none."""
        code = find_code(self.error)
        return code.value if code else ""

    def first(self, name: str) -> Any:
        """The first value of an output; None if the output is missing or empty."""
        return next(iter(self.outputs.get(name, [])), None)


def stream_generate(server: Server, inputs: Inputs, headers: Headers) -> Generator[Piece, None, None]:
    """Stream one answer over HTTP. Triton forwards no headers there, so they are members of the body.

    Raises:
        httpx.HTTPError: the connection failed.
    """
    url = f"{server.http_url}/v2/models/{STREAM_MODEL}/generate_stream"
    with (
        httpx.Client(trust_env=False, verify=tls_verification(server), timeout=TIMEOUT_S) as client,
        client.stream("POST", url, json={**inputs, **headers}) as response,
    ):
        for line in response.iter_lines():
            if line.startswith(("{", _EVENT)):  # an error before the first response is plain JSON
                yield _piece(json.loads(line.removeprefix(_EVENT)), response.status_code)


def send_stream(server: Server, inputs: Inputs, headers: Headers) -> Reply:
    """The whole answer of a stream over HTTP: its joined text, and what the last response has."""
    try:
        pieces = list(stream_generate(server, inputs, headers))
    except httpx.HTTPError as error:
        return Reply({}, "", f"no response: {error}")
    if not pieces or not pieces[-1].is_last:
        return Reply({}, "", "the stream has no end")
    last = pieces[-1]
    if last.error:
        return Reply({}, str(last.status), last.error)
    return Reply({**last.outputs, "text_output": ["".join(piece.text for piece in pieces)]}, str(last.status))


def _piece(event: Mapping[str, Any], status: int) -> Piece:
    outputs = {name: value if isinstance(value, list) else [value] for name, value in event.items()}
    return Piece(outputs, str(event.get("error", "")), time.perf_counter(), status)


@contextlib.asynccontextmanager
async def open_streams(server: Server) -> AsyncIterator[triton_grpc_aio.InferenceServerClient]:
    """A connection that carries any number of streams, to use with `async with`."""
    client = triton_grpc_aio.InferenceServerClient(server.grpc_url)
    try:
        yield client
    finally:
        await client.close()


async def stream_grpc(
    client: triton_grpc_aio.InferenceServerClient, inputs: Inputs, headers: Headers, model: str = STREAM_MODEL
) -> AsyncGenerator[Piece, None]:
    """Stream one answer over gRPC; closing the iterator cancels it."""
    request = {"model_name": model, "inputs": [grpc_tensor(name, value) for name, value in inputs.items()]}

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield request

    responses = client.stream_infer(requests(), headers={name.lower(): value for name, value in headers.items()})
    try:
        async for result, error in responses:
            piece = _grpc_piece(result, error)
            if piece.is_last:  # the call ends now; if it is cancelled instead, Triton 2.51 waits for it when it stops
                async for _ in responses:
                    pass
            yield piece
    finally:
        responses.cancel()


def _grpc_piece(result: Any, error: Any) -> Piece:
    if error is not None:
        return Piece({}, error.message(), time.perf_counter())
    names = [output.name for output in result.get_response().outputs]
    outputs = {name: [plain(value) for value in result.as_numpy(name).flat] for name in names}
    return Piece(outputs, "", time.perf_counter())
