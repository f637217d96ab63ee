"""A client that sends slowly is disconnected; one that waits for its answer is not."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvicorn

from llmstack.openai.http_protocol import TimedProtocol
from llmstack.openai.openai_server import server_config

LIMIT_S = 0.3


class QuickProtocol(TimedProtocol):
    limits_s = (LIMIT_S, LIMIT_S)


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(2 * LIMIT_S)  # longer than a client may take to send
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def connected():
    config = server_config(application)
    config.http, config.port = QuickProtocol, 0
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.servers[0].sockets[0].getsockname()[1])
    try:
        yield reader, writer
    finally:
        writer.close()
        server.should_exit = True
        await serving


@pytest.mark.parametrize(
    "sent", [b"", b"POST / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na"]
)
def test_an_incomplete_request_ends_with_a_timeout(sent):
    async def check():
        async with connected() as (reader, writer):
            writer.write(sent)
            return await asyncio.wait_for(reader.read(), 20)

    assert asyncio.run(check()).startswith(b"HTTP/1.1 408")


def test_an_answer_and_the_wait_for_the_next_request_have_no_such_limit():
    async def check():
        async with connected() as (reader, writer):
            for _ in range(2):
                writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na")
                assert (await asyncio.wait_for(reader.readuntil(b"ok"), 20)).startswith(b"HTTP/1.1 200")
                await asyncio.sleep(2 * LIMIT_S)

    asyncio.run(check())
