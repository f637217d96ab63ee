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
from llmstack.bench.bare_http import BareHttpConnection, open_bare
from llmstack.bench.load import LoadError
from llmstack.bench.plans import OpenAIPlan as OpenAIPlan
from llmstack.client.ensemble_client import Headers, Server, release_headers
from llmstack.client.stream_client import open_streams, stream_grpc
from llmstack.openai.triton_client import TritonServers

_TIMEOUT_S = 120.0
_WARM_UP = 20
_CHAT = "/chat/completions"
_MESSAGES: list[dict[str, str]] = [{"role": "user", "content": "Ada Lovelace placed order ORD-4711 for five lamps."}]
_BUSY_FACTOR = 4  # clients at once send so many times as many requests: they take less time
_MEMORY_POLL_S = 0.1


class OpenAIOverhead(NamedTuple):
    """One client, one request after the other. Differences are medians over the rounds of one run.

    The first three are of libraries, the bare ones of the front end's own gRPC client and of ready bytes over HTTP.
    `front_end_cpu_ms` is processor time of the front end's process for each request, `busy` with `num_clients` at once.
    """

    grpc_ms_p50: float
    openai_ms_p50: float
    added_ms_p50: float
    bare_grpc_ms_p50: float
    bare_openai_ms_p50: float
    bare_added_ms_p50: float
    front_end_cpu_ms: float
    busy_front_end_cpu_ms: float
    num_clients: int


class _Round(NamedTuple):
    """Median seconds of each way, and processor seconds of the front end for each request."""

    grpc_s: float
    openai_s: float
    bare_grpc_s: float
    bare_openai_s: float
    cpu_s: float
    busy_cpu_s: float


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
    server: Server, openai_url: str, front_end_pid: int, release: Release, plan: OpenAIPlan
) -> OpenAIOverhead:
    """Measure both ways, in turn.

    Raises:
        LoadError: a request got an error.
    """
    headers, front_end = release_headers(release), psutil.Process(front_end_pid)
    inputs = {"messages": json.dumps(_MESSAGES), "max_tokens": plan.completion_tokens}
    body = {"model": "ensemble", "messages": _MESSAGES, "max_tokens": plan.completion_tokens}
    async with AsyncExitStack() as opened:
        triton = await opened.enter_async_context(open_streams(server))
        http = await opened.enter_async_context(_client(openai_url, headers))
        bare_triton = TritonServers([server.grpc_url])
        opened.push_async_callback(bare_triton.close)
        content = json.dumps(body).encode()
        bare = [
            await opened.enter_async_context(open_bare(f"{openai_url}{_CHAT}", headers, content))
            for _ in range(plan.num_clients)
        ]
        metadata = [(name.lower(), value) for name, value in headers.items()]

        async def send_grpc() -> None:
            async for piece in stream_grpc(triton, {**inputs, "stream": False}, headers):
                if piece.error:
                    raise LoadError(piece.error)

        async def send_openai() -> None:
            answer = await http.post(_CHAT, json=body)
            if answer.status_code != httpx.codes.OK:
                raise LoadError(answer.text)

        async def send_bare_grpc() -> None:
            await bare_triton.answer(inputs, metadata)

        ways = (send_grpc, send_openai, send_bare_grpc, bare[0].send)
        for send in ways:
            await _seconds(send, _WARM_UP)
        rounds = []
        for _ in range(plan.rounds):
            grpc_s, openai_s, bare_grpc_s, bare_openai_s = [
                await _measure(front_end, send, plan.num_requests) for send in ways
            ]
            busy_s = await _busy_cpu_s(front_end, bare, _BUSY_FACTOR * plan.num_requests)
            rounds.append(_Round(grpc_s.p50, openai_s.p50, bare_grpc_s.p50, bare_openai_s.p50, openai_s.cpu, busy_s))
    return _overhead(rounds, plan.num_clients)


def _overhead(rounds: list[_Round], num_clients: int) -> OpenAIOverhead:
    return OpenAIOverhead(
        grpc_ms_p50=_median_ms(each.grpc_s for each in rounds),
        openai_ms_p50=_median_ms(each.openai_s for each in rounds),
        added_ms_p50=_median_ms(each.openai_s - each.grpc_s for each in rounds),
        bare_grpc_ms_p50=_median_ms(each.bare_grpc_s for each in rounds),
        bare_openai_ms_p50=_median_ms(each.bare_openai_s for each in rounds),
        bare_added_ms_p50=_median_ms(each.bare_openai_s - each.bare_grpc_s for each in rounds),
        front_end_cpu_ms=_median_ms(each.cpu_s for each in rounds),
        busy_front_end_cpu_ms=_median_ms(each.busy_cpu_s for each in rounds),
        num_clients=num_clients,
    )


class _Seconds(NamedTuple):
    """The median time of a request, and the processor time of the front end for each."""

    p50: float
    cpu: float


async def _measure(front_end: psutil.Process, send: Callable[[], Awaitable[None]], number: int) -> _Seconds:
    before_s = _cpu_s(front_end)
    found = await _seconds(send, number)
    return _Seconds(statistics.median(found), (_cpu_s(front_end) - before_s) / number)


async def _busy_cpu_s(front_end: psutil.Process, clients: Sequence[BareHttpConnection], number: int) -> float:
    """Processor seconds of the front end for each of about `number` requests, from all clients at once."""
    each = -(-number // len(clients))
    before_s = _cpu_s(front_end)
    await asyncio.gather(*(_seconds(client.send, each) for client in clients))
    return (_cpu_s(front_end) - before_s) / (each * len(clients))


async def measure_many_streams(openai_url: str, front_end_pid: int, release: Release, plan: OpenAIPlan) -> ManyStreams:
    """Open all streams at once and read them to their end."""
    front_end = psutil.Process(front_end_pid)
    body = {"model": "ensemble", "messages": _MESSAGES, "max_tokens": plan.completion_tokens, "stream": True}
    body["stream_options"] = {"include_usage": True}
    before_bytes, before_s, began = front_end.memory_info().rss, _cpu_s(front_end), time.perf_counter()
    async with _client(openai_url, release_headers(release)) as http:
        streams = [asyncio.create_task(_read_stream(http, body)) for _ in range(plan.num_streams)]
        watch = asyncio.create_task(_max_memory(front_end))
        results = await asyncio.gather(*streams)
        watch.cancel()
        max_bytes = (await asyncio.gather(watch, return_exceptions=True))[0]
    first_s = sorted(first for first, _ in results if first)
    peak = max(front_end.memory_info().rss, max_bytes if isinstance(max_bytes, int) else 0)
    return ManyStreams(
        num_streams=plan.num_streams,
        num_whole=sum(num_tokens == plan.completion_tokens for _, num_tokens in results),
        first_token_ms_p50=_ms(statistics.median(first_s)) if first_s else 0.0,
        first_token_ms_max=_ms(max(first_s, default=0.0)),
        seconds=round(time.perf_counter() - began, 2),
        front_end_kib_per_stream=round((peak - before_bytes) / 1_024 / plan.num_streams, 1),
        front_end_cpu_s=round(_cpu_s(front_end) - before_s, 2),
    )


async def _read_stream(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[float, int]:
    """Seconds until the first text, and the completion tokens that the usage names; zeros for a broken stream."""
    began, first_s, num_tokens, is_done = time.perf_counter(), 0.0, 0, False
    try:
        async with http.stream("POST", _CHAT, json=body) as answer:
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
async def _client(url: str, headers: Headers) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=url, headers=dict(headers), limits=limits, timeout=_TIMEOUT_S, trust_env=False
    ) as client:
        yield client


async def _seconds(send: Callable[[], Awaitable[None]], number: int) -> list[float]:
    found = []
    for _ in range(number):
        began = time.perf_counter()
        await send()
        found.append(time.perf_counter() - began)
    return found


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _median_ms(seconds: Iterable[float]) -> float:
    return _ms(statistics.median(seconds))


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
