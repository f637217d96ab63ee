"""The bare HTTP client waits for whole answers, and reports what is no answer."""

from __future__ import annotations

import asyncio

import pytest

from llmstack.bench.bare_http import open_bare
from llmstack.bench.load import LoadError

BODY = b'{"model": "m"}'


async def exchange(parts, times=1):
    """What a server received that answers each request with `parts`, one write each."""
    received = []

    async def serve(reader, writer):
        for _ in range(times):
            received.append(await reader.readuntil(BODY))
            for part in parts:
                writer.write(part)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
    async with server, open_bare(url, {"X-Tenant": "acme"}, BODY) as connection:
        for _ in range(times):
            await asyncio.wait_for(connection.send(), 20)
    return received


def test_a_connection_sends_one_request_after_the_other():
    requests = asyncio.run(exchange([b"HTTP/1.1 200 OK\r\nContent-", b"Length: 2\r\n\r\n", b"o", b"k"], times=3))
    assert len(requests) == 3
    assert requests[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nX-Tenant: acme\r\n" in requests[0]
    assert requests[0].endswith(b"\r\nContent-Length: 14\r\n\r\n" + BODY)


def test_an_error_has_the_body_as_its_text():
    with pytest.raises(LoadError, match="no engine"):
        asyncio.run(exchange([b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\nno engine"]))


def test_a_connection_that_breaks_is_an_error():
    with pytest.raises(LoadError, match="broke"):
        asyncio.run(exchange([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"]))
