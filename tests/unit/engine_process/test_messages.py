"""Messages arrive as they were sent, and what is no message is refused."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_process import messages
from engine_process.messages import (
    Abort,
    Capabilities,
    End,
    Generate,
    Guide,
    Hello,
    ProtocolError,
    Sampling,
    Started,
    Stats,
    StatsRequest,
    Tokens,
    Welcome,
    encode,
    read_client_message,
    read_engine_message,
    read_ids,
    read_log_probs,
    write_ids,
    write_log_probs,
)


def read(function, data):
    async def run():
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await function(reader)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "message",
    [
        Hello(1, "sha256:a", "boot"),
        Generate(3, write_ids([1, 2]), 5, 1, Sampling(seed=2**64 - 1), [[1, 2]], [], 9, Guide("a", "b", "ü"), True),
        Abort(3),
        StatsRequest(),
    ],
)
def test_a_clients_message_arrives_as_it_was_sent(message):
    assert read(read_client_message, encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        Welcome(1, "sha256:a", "w4a8", "echo", 12, 1.5, Capabilities(4, 0, 0, ["json"])),
        Started(1, 20),
        Tokens(1, write_ids([5]), write_log_probs([-0.5])),
        End(1, "stop", "", "", 2, 3, 4, 5, 6, 7, -1.5),
        Stats(1, 2, 0.5, ["boot"]),
    ],
)
def test_the_engines_message_arrives_as_it_was_sent(message):
    assert read(read_engine_message, encode(message)) == message


@given(st.binary(max_size=64))
def test_any_bytes_are_a_message_or_a_declared_error(data):
    with pytest.raises((ProtocolError, asyncio.IncompleteReadError)):
        while True:
            read(read_client_message, len(data).to_bytes(4, "big") + data)
            raise ProtocolError("it was a message")


def test_a_message_that_is_too_long_is_refused_before_it_is_read():
    with pytest.raises(ProtocolError, match="limit"):
        read(read_client_message, (messages.MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_token_ids_survive(ids):
    assert read_ids(write_ids(ids)) == ids


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_log_probabilities_survive(values):
    assert read_log_probs(write_log_probs(values)) == values
