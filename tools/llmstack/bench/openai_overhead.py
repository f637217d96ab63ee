"""What the OpenAI front end adds to a request, and many streams through one of its processes.

Both parts run on the no-op engine. The first sends the same request over gRPC to Triton and over HTTP to the front end,
in turn within one run: by the libraries that Python programs use (tritonclient; httpx, as in OpenAI's SDK), and by
clients that do next to nothing themselves. The second opens many streams at once and reads all of them to their end.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil

from llm_policy.release.release import Release
from llmstack.bench.bare_http import open_bare
from llmstack.bench.load import LoadError
from llmstack.bench.plans import OpenAIPlan as OpenAIPlan
from llmstack.client.ensemble_client import Headers, Server, release_headers
from llmstack.client.stream_client import open_streams, stream_grpc
from llmstack.openai.triton_client import ENSEMBLE_STREAM, TritonServers, serialize_request

_TIMEOUT_S = 120.0
_WARM_UP = 20
_MESSAGES: list[dict[str, str]] = [{"role": "user", "content": "Ada Lovelace placed order ORD-4711 for five lamps."}]
_BUSY_FACTOR = 4  # clients at once send so many times as many requests: they take less time
_MEMORY_POLL_S = 0.1


class OpenAIOverhead(NamedTuple):
    """One client, one request after the other. Differences are medians over the rounds of one run.

    The first three are of libraries, the bare ones of the front end's own gRPC client and of ready bytes over HTTP.
    `front_end_cpu_ms` is processor time of the front end's process for each request, `busy` with `num_clients` at once;
    `floor` is that of a `bare_front_end`.
    """

    grpc_ms_p50: float
    openai_ms_p50: float
    added_ms_p50: float
    bare_grpc_ms_p50: float
    bare_openai_ms_p50: float
    bare_added_ms_p50: float
    front_end_cpu_ms: float
    floor_cpu_ms: float
    busy_front_end_cpu_ms: float
    busy_floor_cpu_ms: float
    num_clients: int


class FrontEnd(NamedTuple):
    """A front end's URL of chats, and its process."""

    url: str
    pid: int

    @property
    def cpu_s(self) -> float:
        """The processor time that it has used."""
        return _cpu_s(psutil.Process(self.pid))


class _Round(NamedTuple):
    """Median seconds of each way, and processor seconds of both front ends for each request."""

    grpc_s: float
    openai_s: float
    bare_grpc_s: float
    bare_openai_s: float
    cpu_s: float
    floor_cpu_s: float
    busy_cpu_s: float
    busy_floor_cpu_s: float


class ManyStreams(NamedTuple):
    """Streams through one process. `num_whole` came to their end with every token."""

    num_streams: int
    num_whole: int
    first_token_ms_p50: float
    first_token_ms_max: float
    seconds: float
    front_end_kib_per_stream: float
    front_end_cpu_s: float


def with_long_queue(release: Release, directory: Path, num_requests: int) -> Path:
    """A copy of the release whose engine queue takes so many requests."""
    copy = shutil.copytree(release.directory.resolve(), directory / "release")
    path = copy / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["engine"] |= {"max_queue_size": num_requests, "max_queue_tokens": 1_000_000_000}
    path.write_text(json.dumps(manifest))
    return copy


async def measure_overhead(
    server: Server, front_end: FrontEnd, floor: FrontEnd, release: Release, plan: OpenAIPlan
) -> OpenAIOverhead:
    """Measure all ways, in turn.

    Raises:
        LoadError: a request got an error.
    """
    async with AsyncExitStack() as opened:
        measurement = await _Measurement.open(opened, server, front_end, floor, release_headers(release), plan)
        await measurement.warm_up()
        rounds = [await measurement.measure() for _ in range(plan.rounds)]
    return OpenAIOverhead(
        grpc_ms_p50=_median_ms(each.grpc_s for each in rounds),
        openai_ms_p50=_median_ms(each.openai_s for each in rounds),
        added_ms_p50=_median_ms(each.openai_s - each.grpc_s for each in rounds),
        bare_grpc_ms_p50=_median_ms(each.bare_grpc_s for each in rounds),
        bare_openai_ms_p50=_median_ms(each.bare_openai_s for each in rounds),
        bare_added_ms_p50=_median_ms(each.bare_openai_s - each.bare_grpc_s for each in rounds),
        front_end_cpu_ms=_median_ms(each.cpu_s for each in rounds),
        floor_cpu_ms=_median_ms(each.floor_cpu_s for each in rounds),
        busy_front_end_cpu_ms=_median_ms(each.busy_cpu_s for each in rounds),
        busy_floor_cpu_ms=_median_ms(each.busy_floor_cpu_s for each in rounds),
        num_clients=plan.num_clients,
    )


_Send = Callable[[], Awaitable[None]]


class _Clients(NamedTuple):
    """The clients of one front end: httpx, and bare ones."""

    front_end: FrontEnd
    library: _Send
    bare: Sequence[_Send]

    @classmethod
    async def open(
        cls, opened: AsyncExitStack, front_end: FrontEnd, headers: Headers, body: bytes, number: int
    ) -> _Clients:
        http = await opened.enter_async_context(_client(headers))

        async def send() -> None:
            answer = await http.post(front_end.url, content=body, headers={"Content-Type": "application/json"})
            if answer.status_code != httpx.codes.OK:
                raise LoadError(answer.text)

        bare = [await opened.enter_async_context(open_bare(front_end.url, headers, body)) for _ in range(number)]
        return cls(front_end, send, [connection.send for connection in bare])

    async def seconds(self, number: int) -> tuple[float, float]:
        """The median time of `number` requests by httpx, and the front end's processor time for each."""
        before_s = self.front_end.cpu_s
        median_s = await _median_s(self.library, number)
        return median_s, (self.front_end.cpu_s - before_s) / number

    async def busy_cpu_s(self, number: int) -> float:
        """The front end's processor time for each of about `number` requests, from all bare clients at once."""
        before_s, each = self.front_end.cpu_s, -(-number // len(self.bare))
        await asyncio.gather(*(_median_s(send, each) for send in self.bare))
        return (self.front_end.cpu_s - before_s) / (each * len(self.bare))


class _Measurement(NamedTuple):
    """Everything that takes turns."""

    grpc: _Send
    bare_grpc: _Send
    openai: _Clients
    floor: _Clients
    num_requests: int

    @classmethod
    async def open(
        cls,
        opened: AsyncExitStack,
        server: Server,
        front_end: FrontEnd,
        floor: FrontEnd,
        headers: Headers,
        plan: OpenAIPlan,
    ) -> _Measurement:
        inputs = {"messages": json.dumps(_MESSAGES), "max_tokens": plan.completion_tokens, "stream": False}
        body = {"model": "ensemble", "messages": _MESSAGES, "max_tokens": plan.completion_tokens}
        triton = await opened.enter_async_context(open_streams(server))
        bare_triton = TritonServers([server.grpc_url])
        opened.push_async_callback(bare_triton.close)
        metadata = [(name.lower(), value) for name, value in headers.items()]

        async def send_grpc() -> None:
            async for piece in stream_grpc(triton, inputs, headers):
                if piece.error:
                    raise LoadError(piece.error)

        async def send_bare_grpc() -> None:
            await bare_triton.answer(inputs, metadata)

        request = serialize_request(ENSEMBLE_STREAM, inputs)
        return cls(
            send_grpc,
            send_bare_grpc,
            await _Clients.open(opened, front_end, headers, json.dumps(body).encode(), plan.num_clients),
            await _Clients.open(opened, floor, headers, request, plan.num_clients),
            plan.num_requests,
        )

    async def warm_up(self) -> None:
        for send in (self.grpc, self.bare_grpc, self.openai.library, self.floor.library):
            await _median_s(send, _WARM_UP)

    async def measure(self) -> _Round:
        number = self.num_requests
        grpc_s = await _median_s(self.grpc, number)
        openai_s, cpu_s = await self.openai.seconds(number)
        _, floor_cpu_s = await self.floor.seconds(number)
        bare_grpc_s = await _median_s(self.bare_grpc, number)
        bare_openai_s = await _median_s(self.openai.bare[0], number)
        busy_cpu_s = await self.openai.busy_cpu_s(_BUSY_FACTOR * number)
        busy_floor_cpu_s = await self.floor.busy_cpu_s(_BUSY_FACTOR * number)
        return _Round(grpc_s, openai_s, bare_grpc_s, bare_openai_s, cpu_s, floor_cpu_s, busy_cpu_s, busy_floor_cpu_s)


async def measure_many_streams(front_end: FrontEnd, release: Release, plan: OpenAIPlan) -> ManyStreams:
    """Open all streams at once and read them to their end."""
    process = psutil.Process(front_end.pid)
    body = {"model": "ensemble", "messages": _MESSAGES, "max_tokens": plan.completion_tokens, "stream": True}
    body["stream_options"] = {"include_usage": True}
    before_bytes, before_s, began = process.memory_info().rss, front_end.cpu_s, time.perf_counter()
    async with _client(release_headers(release)) as http:
        streams = [asyncio.create_task(_read_stream(http, front_end.url, body)) for _ in range(plan.num_streams)]
        watch = asyncio.create_task(_max_memory(process))
        results = await asyncio.gather(*streams)
        watch.cancel()
        max_bytes = (await asyncio.gather(watch, return_exceptions=True))[0]
    first_s = sorted(first for first, _ in results if first)
    peak = max(process.memory_info().rss, max_bytes if isinstance(max_bytes, int) else 0)
    return ManyStreams(
        num_streams=plan.num_streams,
        num_whole=sum(num_tokens == plan.completion_tokens for _, num_tokens in results),
        first_token_ms_p50=_ms(statistics.median(first_s)) if first_s else 0.0,
        first_token_ms_max=_ms(max(first_s, default=0.0)),
        seconds=round(time.perf_counter() - began, 2),
        front_end_kib_per_stream=round((peak - before_bytes) / 1_024 / plan.num_streams, 1),
        front_end_cpu_s=round(front_end.cpu_s - before_s, 2),
    )


async def _read_stream(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> tuple[float, int]:
    """Seconds until the first text, and the completion tokens that the usage names; zeros for a broken stream."""
    began, first_s, num_tokens, is_done = time.perf_counter(), 0.0, 0, False
    try:
        async with http.stream("POST", url, json=body) as answer:
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    is_done = True
                elif line.startswith("data: "):
                    chunk = json.loads(line[6:])
                    if not first_s and any(choice["delta"].get("content") for choice in chunk.get("choices", [])):
                        first_s = time.perf_counter() - began
                    num_tokens = (chunk.get("usage") or {}).get("completion_tokens", num_tokens)
    except httpx.HTTPError:
        return 0.0, 0
    return first_s, num_tokens if is_done else 0


async def _max_memory(process: psutil.Process) -> int:
    """The largest resident memory until it is cancelled, in bytes."""
    largest = 0
    try:
        while True:
            largest = max(largest, process.memory_info().rss)
            await asyncio.sleep(_MEMORY_POLL_S)
    except asyncio.CancelledError:
        return largest


@asynccontextmanager
async def _client(headers: Headers) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(headers=dict(headers), limits=limits, timeout=_TIMEOUT_S, trust_env=False) as client:
        yield client


async def _median_s(send: _Send, number: int) -> float:
    found = []
    for _ in range(number):
        began = time.perf_counter()
        await send()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _median_ms(seconds: Iterable[float]) -> float:
    return _ms(statistics.median(seconds))


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
