"""Messages reach the other side whole and in order, whichever threads send them and however full the socket is."""

import asyncio
import contextlib
import socket
import threading

from engine_process.socket_writer import SocketWriter

NUM_THREADS, NUM_MESSAGES = 4, 200
BODY = b"x" * 3_000  # a few of them fill the socket


def message(thread, number):
    return bytes([thread]) + number.to_bytes(2, "big") + BODY


async def connected():
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    _, writer = await asyncio.open_unix_connection(sock=ours)
    reader, other = await asyncio.open_unix_connection(sock=theirs)
    return SocketWriter(ours, writer.transport), writer, reader, other


def send_all(writer, thread):
    for number in range(NUM_MESSAGES):
        writer.write(message(thread, number))


def test_messages_of_several_threads_arrive_whole_and_each_threads_in_order():
    async def run():
        writer, own, reader, other = await connected()
        threads = [threading.Thread(target=send_all, args=(writer, number)) for number in range(1, NUM_THREADS)]
        for thread in threads:
            thread.start()
        send_all(writer, 0)  # on the loop's thread
        received = {number: [] for number in range(NUM_THREADS)}
        for _ in range(NUM_THREADS * NUM_MESSAGES):
            text = await reader.readexactly(3 + len(BODY))
            assert text[3:] == BODY
            received[text[0]].append(int.from_bytes(text[1:3], "big"))
        assert all(numbers == list(range(NUM_MESSAGES)) for numbers in received.values())
        for stream in (own, other):
            stream.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_message_for_a_connection_that_broke_is_lost_without_an_error():
    async def run():
        writer, own, _, other = await connected()
        other.close()
        with contextlib.suppress(ConnectionError):
            await other.wait_closed()
        for number in range(NUM_MESSAGES):
            writer.write(message(0, number))
        own.close()
        await asyncio.sleep(0)
        writer.write(message(0, 0))

    asyncio.run(asyncio.wait_for(run(), 60))
