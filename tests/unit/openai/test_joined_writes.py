"""What is written in one turn of the event loop is sent together, and nothing is lost at the end."""

from __future__ import annotations

import asyncio

from llmstack.openai.joined_writes import JoinedWrites


class RecordingTransport(asyncio.Transport):
    """Remembers what it was given to send."""

    def __init__(self):
        super().__init__({"peername": "a client"})
        self.sent, self.is_closed = [], False

    def write(self, data):
        self.sent.append(data)

    def close(self):
        self.is_closed = True

    def is_closing(self):
        return self.is_closed


def sent_by(use):
    async def check():
        transport = RecordingTransport()
        await use(JoinedWrites(transport, asyncio.get_running_loop()), transport)
        await asyncio.sleep(0)
        return transport.sent

    return asyncio.run(check())


def test_writes_of_one_turn_are_one():
    async def use(joined, transport):
        joined.write(b"head")
        joined.write(b"body")
        assert transport.sent == []
        await asyncio.sleep(0)
        joined.write(b"next")

    assert sent_by(use) == [b"headbody", b"next"]


def test_closing_sends_what_was_written_before():
    async def use(joined, transport):
        joined.write(b"last words")
        joined.close()
        assert transport.is_closing()

    assert sent_by(use) == [b"last words"]


def test_a_connection_that_was_lost_gets_nothing():
    async def use(joined, transport):
        joined.write(b"too late")
        transport.close()

    assert sent_by(use) == []


def test_everything_else_is_the_transports_own():
    async def use(joined, transport):
        assert joined.get_extra_info("peername") == "a client"
        assert not joined.is_closing()

    assert sent_by(use) == []
