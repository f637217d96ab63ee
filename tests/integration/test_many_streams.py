"""Many streams at once, a third of whose clients go away: every row, token and place in the engine is accounted for."""

import asyncio
import contextlib
import os
import random
import socket
from collections import Counter
from itertools import chain
from typing import NamedTuple
from urllib.parse import urlsplit

import orjson
import pytest

from llm_policy.release.release import Release
from llmstack.client.stream_client import open_streams, stream_generate, stream_grpc
from tests.integration.live_service import LiveService, wait_until

pytestmark = [pytest.mark.server, pytest.mark.slow]
NUM_STREAMS = int(os.environ.get("LLMSTACK_STREAMS", "600"))
NUM_AT_A_TIME = 64
MAX_TOKENS, LONG_TOKENS = 60, 800
CANCELS, CLOSES_SOCKET = 0.30, 0.05
# A child of the server may hold some memory of its first requests; a leak of one stream's state exceeds this.
MAX_GROWTH_BYTES = 24 << 20
KINDS = (
    {"text_input": "plain"},
    {"text_input": "with a schema", "schema_id": "order"},
    {"messages": '[{"role": "user", "content": "hello"}]'},
    {"text_input": "with its prompt", "exclude_input_in_output": False},
    {"text_input": "in one piece", "stream": False},
    {"text_input": "as a judge", "task": "judge"},
)


class Tally(NamedTuple):
    """What one client saw: the tokens that it was told of, and whether it read to the end."""

    request_id: str
    num_tokens: int
    is_complete: bool


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    environment = {"LLMSTACK_ENGINE_OPTIONS": "token_interval_ms=3"}
    thresholds = {"max_queue_delay_us": 60_000_000}
    directory = tmp_path_factory.mktemp("streams")
    engine = {"max_queue_size": 2 * NUM_AT_A_TIME, "max_queue_tokens": 10_000_000}
    with LiveService(directory, "echo", environment, thresholds=thresholds, engine=engine) as live:
        yield live


async def read(client, inputs, headers, num_pieces):
    """Read at most so many pieces over gRPC; a client that has enough cancels."""
    num_tokens, is_complete = 0, False
    async with contextlib.aclosing(stream_grpc(client, inputs, headers)) as pieces:
        async for piece in pieces:
            assert not piece.error, piece.error
            num_tokens, is_complete = piece.first("num_output_tokens"), piece.is_last
            num_pieces -= 1
            if not num_pieces:
                break
    return Tally(headers["X-Request-Id"], num_tokens, is_complete)


def close_socket(service: LiveService, inputs, headers) -> Tally:
    """Send a request for server-sent events, read some bytes of the answer and close the connection."""
    body = orjson.dumps({**inputs, **headers})
    address = urlsplit(service.http_url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(
            b"POST /v2/models/ensemble_stream/generate_stream HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert connection.recv(100)
    return Tally(headers["X-Request-Id"], 0, False)


async def run_client(service, client, number, randomness) -> Tally:
    inputs = {**KINDS[number % len(KINDS)], "max_tokens": randomness.randint(1, MAX_TOKENS)}
    headers = {**service.headers, "X-Tenant": f"tenant-{number % 7}", "X-Request-Id": f"stream-{number}"}
    fate = randomness.random()
    if fate < CLOSES_SOCKET + CANCELS:  # long enough to be still running then
        inputs = {**inputs, "stream": True, "max_tokens": LONG_TOKENS}
    if fate < CLOSES_SOCKET:
        return await asyncio.to_thread(close_socket, service, inputs, headers)
    return await read(client, inputs, headers, randomness.randint(1, 8) if fate < CLOSES_SOCKET + CANCELS else 0)


async def run_clients(service, numbers, randomness) -> list[Tally]:
    waiting = iter(numbers)

    async def work(client) -> list[Tally]:
        return [await run_client(service, client, number, randomness) for number in waiting]

    async with open_streams(service) as client:
        return list(chain.from_iterable(await asyncio.gather(*(work(client) for _ in range(NUM_AT_A_TIME)))))


def num_in_engine(service) -> int:
    engine = service.readiness()["engine_process"]
    return int(engine["running"]) + int(engine["waiting"])


def test_every_stream_is_accounted_for_and_no_memory_or_place_stays_taken(service):
    randomness = random.Random(2_000)
    stub = service.stub("ensemble_stream")
    first = asyncio.run(run_clients(service, range(NUM_STREAMS // 3), randomness))
    wait_until(lambda: num_in_engine(service) == 0)
    memory_before = stub.memory_info().rss
    tallies = first + asyncio.run(run_clients(service, range(NUM_STREAMS // 3, NUM_STREAMS), randomness))
    assert len(tallies) == NUM_STREAMS
    assert sum(not tally.is_complete for tally in tallies) > NUM_STREAMS * CANCELS / 2
    wait_until(lambda: num_in_engine(service) == 0)
    wait_until(lambda: not service.rows("SELECT 1 FROM request WHERE state = 'admitted'"))
    assert stub.memory_info().rss - memory_before < MAX_GROWTH_BYTES
    check_books(service, tallies)


def check_books(service, tallies) -> None:
    columns = "request_id, state, code, num_prompt_tokens, num_completion_tokens, actual_nano_usd"
    rows = {row[0]: row[1:] for row in service.rows(f"SELECT {columns} FROM request WHERE canary = 0")}
    assert len(rows) == len(tallies)
    price = Release.open(service.release_dir).manifest.prices.per_token
    states = Counter()
    for tally in tallies:
        state, code, num_prompt_tokens, num_tokens, nano_usd = rows[tally.request_id]
        states[state] += 1
        assert nano_usd == price.cost(num_prompt_tokens, num_tokens)
        if tally.is_complete:
            assert (state, code, num_tokens) == ("settled", "", tally.num_tokens)
        else:
            assert (state, code) in (("cancelled", "cancelled"), ("settled", ""))
            assert tally.num_tokens <= num_tokens <= LONG_TOKENS
    assert states["cancelled"] > 0
    assert service.llmstack("ledger", "verify").returncode == 0


def test_a_client_that_reads_nothing_holds_up_no_other(service):
    """A slow reader's stream ends, and another client's does meanwhile."""
    headers = {**service.headers, "X-Tenant": "acme"}
    inputs = {"text_input": "slow", "max_tokens": 500}
    slow = stream_generate(service, inputs, {**headers, "X-Request-Id": "slow-reader"})
    next(slow)
    other = list(stream_generate(service, {"text_input": "quick", "max_tokens": 8}, headers))
    assert other[-1].is_last
    wait_until(lambda: service.rows("SELECT state FROM request WHERE request_id = 'slow-reader'") == [("settled",)])
    assert sum(len(piece.text) for piece in slow) > 400
