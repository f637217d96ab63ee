"""The client of Triton, against a small gRPC server that speaks its protocol."""

from __future__ import annotations

import asyncio
import contextlib
import struct

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from llmstack.openai.triton_client import TritonError, TritonServers, Unreachable
from tests.unit.openai.triton_servicer import Servicer

METADATA = (("x-tenant", "acme"),)


@contextlib.asynccontextmanager
async def serve(*servicers):
    servers, addresses = [], []
    for servicer in servicers:
        server = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        await server.start()
        servers.append(server)
    client = TritonServers(addresses)
    try:
        yield client
    finally:
        await client.close()
        for server in servers:
            await server.stop(None)


async def texts(client, **inputs):
    return [piece.text async for piece in client.stream({"text_input": "hi", **inputs}, METADATA)]


async def text(client):
    return (await client.answer({"text_input": "hi"}, METADATA)).text


CALLS = pytest.mark.parametrize("call", [texts, text])


def test_pieces_come_in_order_and_inputs_arrive_as_they_were_given():
    async def check():
        servicer = Servicer([("a", False), ("é", True)])
        async with serve(servicer) as client:
            inputs = {"stop_words": ["x", "yz"], "temperature": 0.5, "seed": 2**64 - 1}
            assert await texts(client, **inputs) == ["a", "é"]
        (request,) = servicer.requests
        raw = dict(zip((each.name for each in request.inputs), request.raw_input_contents, strict=True))
        assert raw["stop_words"] == b"\x01\x00\x00\x00x\x02\x00\x00\x00yz"
        assert (raw["temperature"], raw["seed"], raw["stream"]) == (struct.pack("<f", 0.5), b"\xff" * 8, b"\x01")
        assert list(request.inputs[1].shape) == [1, 2]
        assert servicer.metadata[0]["x-tenant"] == "acme"

    asyncio.run(check())


def test_a_whole_answer_is_one_response_of_the_stream_model():
    async def check():
        servicer = Servicer([("a", False), ("é", True)])
        async with serve(servicer) as client:
            assert await text(client) == "aé"
        (request,) = servicer.requests
        assert (request.model_name, request.raw_input_contents[-1]) == ("ensemble_stream", b"\x00")
        assert servicer.metadata[0]["x-tenant"] == "acme"

    asyncio.run(check())


def test_the_error_of_a_whole_answer_keeps_its_text():
    async def check():
        async with serve(Servicer(error="overloaded: full")) as client:
            with pytest.raises(TritonError, match="overloaded: full"):
                await text(client)

    asyncio.run(check())


def test_an_error_after_a_piece_is_the_end():
    async def check():
        async with serve(Servicer([("a", False)], "engine_unavailable: gone")) as client:
            with pytest.raises(TritonError, match="engine_unavailable: gone"):
                await texts(client)

    asyncio.run(check())


def test_closing_the_pieces_cancels_the_call():
    async def check():
        servicer = Servicer([("a", False)])
        async with serve(servicer) as client:
            async with contextlib.aclosing(client.stream({"text_input": "hi"}, METADATA)) as pieces:
                assert (await anext(pieces)).text == "a"
            await asyncio.wait_for(servicer.cancelled.wait(), 20)

    asyncio.run(check())


def test_a_cancelled_task_cancels_the_call_of_a_whole_answer():
    async def check():
        servicer = Servicer([("a", False)])
        async with serve(servicer) as client:
            task = asyncio.create_task(text(client))
            while not servicer.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait_for(servicer.cancelled.wait(), 20)

    asyncio.run(check())


@CALLS
def test_a_server_without_the_stream_model_answers_by_the_ensemble(call):
    async def check():
        servicer = Servicer(has_stream_model=False)
        async with serve(servicer) as client:
            assert await call(client) in ("whole", ["whole"])
        last = servicer.requests[-1]
        assert (last.model_name, [each.name for each in last.inputs]) == ("ensemble", ["text_input"])

    asyncio.run(check())


@CALLS
def test_the_ensembles_error_keeps_its_text(call):
    async def check():
        servicer = Servicer(error="in ensemble 'ensemble', overloaded: full", has_stream_model=False)
        async with serve(servicer) as client:
            with pytest.raises(TritonError, match="overloaded: full"):
                await call(client)

    asyncio.run(check())


@CALLS
def test_an_answer_without_a_last_piece_is_a_broken_connection(call):
    async def check():
        async with serve(Servicer()) as client:
            with pytest.raises(Unreachable):
                await call(client)

    asyncio.run(check())


@CALLS
def test_a_server_that_does_not_listen_is_unreachable(call):
    async def check():
        client = TritonServers(["127.0.0.1:1"])
        try:
            with pytest.raises(Unreachable):
                await call(client)
            assert not await client.is_ready()
        finally:
            await client.close()

    asyncio.run(check())


def test_servers_take_requests_in_turn():
    async def check():
        servicers = Servicer([("a", True)]), Servicer([("b", True)])
        async with serve(*servicers) as client:
            answers = [await texts(client) for _ in range(4)]
        assert answers == [["a"], ["b"], ["a"], ["b"]]

    asyncio.run(check())
