"""A client that sends slowly or too much is disconnected; one that waits for its answer is not."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import uvicorn
import uvloop

from llmstack.openai.http_protocol import MAX_HEAD_BYTES, TimedProtocol
from llmstack.openai.openai_server import server_config

LIMIT_S = 0.3
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
REQUEST = POST + b"Content-Length: 1\r\n\r\na"


class QuickProtocol(TimedProtocol):
    limits_s = (LIMIT_S, LIMIT_S)


class Application:
    """Answers with the number of bytes of the body; remembers the headers that it saw."""

    def __init__(self, seconds=0.0):
        self.seconds, self.headers = seconds, []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.headers.append(dict(scope["headers"]))
        num_bytes, is_complete = 0, False
        while not is_complete:
            message = await receive()
            num_bytes, is_complete = num_bytes + len(message.get("body", b"")), not message.get("more_body")
        await asyncio.sleep(self.seconds)
        text = b"%d bytes" % num_bytes
        head = [(b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": text})


@contextlib.asynccontextmanager
async def connected(application=None):
    config = server_config(application or Application())
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


async def answer_to(sent, application=None):
    """Everything that the server says until it closes the connection."""
    async with connected(application) as (reader, writer):
        writer.write(sent)
        return await asyncio.wait_for(reader.read(), 20)


def run(work):
    """The front end's event loop is uvloop's."""
    return uvloop.run(work)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n",
        POST,
        POST + b"Content-Length: 9\r\n\r\na",
        POST + CHUNKED + b"1\r\na\r\n",
    ],
)
def test_an_incomplete_request_ends_with_a_timeout(sent):
    assert run(answer_to(sent)).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("rest", [POST, POST + b"Content-Length: 9\r\n\r\na"])
def test_an_incomplete_request_after_another_one_ends_with_a_timeout_after_the_answer(rest):
    answer = run(answer_to(REQUEST + rest, application=Application(2 * LIMIT_S)))
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"1 bytesHTTP/1.1 408" in answer


def test_an_answer_and_the_wait_for_the_next_request_have_no_such_limit():
    async def check():
        async with connected(Application(2 * LIMIT_S)) as (reader, writer):
            for _ in range(2):
                writer.write(REQUEST)
                assert (await asyncio.wait_for(reader.readuntil(b"1 bytes"), 20)).startswith(b"HTTP/1.1 200")
                await asyncio.sleep(2 * LIMIT_S)

    run(check())


@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\nX-Long: " + b"a" * MAX_HEAD_BYTES,
        b"POST /" + b"a" * MAX_HEAD_BYTES,
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"no HTTP\r\n\r\n",
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\naa",
    ],
)
def test_an_endless_head_and_what_is_no_http_are_refused(sent):
    assert run(answer_to(sent)).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("part", [b"1;a=", b"0\r\nX-Long: "])
def test_what_stands_between_the_parts_of_a_body_or_after_it_is_not_endless_either(part):
    async def check():
        async with connected() as (_, writer):
            writer.write(POST + CHUNKED + part)
            with pytest.raises(ConnectionError):
                while True:
                    writer.write(b"a" * 10_000)
                    await writer.drain()

    run(asyncio.wait_for(check(), 20))


def test_a_body_may_be_longer_than_a_head():
    async def check():
        async with connected() as (reader, writer):
            writer.write(POST + b"Content-Length: 1000000\r\n\r\n" + b"a" * 1_000_000)
            await asyncio.wait_for(reader.readuntil(b"1000000 bytes"), 20)

    run(check())


def test_blanks_around_a_header_are_no_part_of_it():
    application = Application()

    async def check():
        async with connected(application) as (reader, writer):
            writer.write(POST + b"X-Tenant: \t acme co \t \r\nX-Empty: \t\r\nContent-Length: 1\r\n\r\na")
            await asyncio.wait_for(reader.readuntil(b"1 bytes"), 20)

    run(check())
    assert (application.headers[0][b"x-tenant"], application.headers[0][b"x-empty"]) == (b"acme co", b"")


def test_trailers_are_no_headers():
    application = Application()
    chunks = CHUNKED + b"1\r\na\r\n0\r\nX-Tenant: evil\r\n\r\n"

    async def check():
        async with connected(application) as (reader, writer):
            writer.write(POST + chunks)
            await asyncio.wait_for(reader.readuntil(b"1 bytes"), 20)

    run(check())
    assert list(application.headers[0]) == [b"host", b"transfer-encoding"]


def test_requests_may_follow_one_another_without_a_pause():
    async def check():
        async with connected() as (reader, writer):
            writer.write(REQUEST * 3)
            for _ in range(3):
                await asyncio.wait_for(reader.readuntil(b"1 bytes"), 20)

    run(check())


@pytest.mark.parametrize("split", [None, 70])
@pytest.mark.parametrize("body", [b"Content-Length: 1\r\n\r\na", CHUNKED + b"1\r\na\r\n0\r\n\r\n"])
def test_a_request_for_another_protocol_is_answered_in_this_one(body, split):
    application = Application()
    sent = POST + b"Connection: keep-alive, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nX-Tenant: acme\r\n" + body

    async def check():
        async with connected(application) as (reader, writer):
            for part in (sent[:split], sent[len(sent[:split]) :] + REQUEST):
                writer.write(part)
                await writer.drain()
            for _ in range(2):
                await asyncio.wait_for(reader.readuntil(b"1 bytes"), 20)

    run(check())
    assert application.headers[0][b"x-tenant"] == b"acme"
    assert b"upgrade" not in application.headers[0]
