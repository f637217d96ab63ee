"""The bare front end passes a serialized request to Triton, and its response back."""

from __future__ import annotations

import asyncio

import grpc
import httpx
from tritonclient.grpc import service_pb2, service_pb2_grpc

from llmstack.bench.bare_front_end import bare_front_end
from llmstack.openai.triton_client import ENSEMBLE_STREAM, serialize_request
from tests.unit.openai.triton_servicer import Servicer


async def exchange(servicer, body, headers):
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with bare_front_end(f"127.0.0.1:{port}") as (url, _):
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                return await client.post(url, content=body, headers=headers)
    finally:
        await server.stop(None)


def test_bytes_pass_unread_with_the_headers_of_the_policy():
    servicer = Servicer([("a", False), ("b", True)])
    body = serialize_request(ENSEMBLE_STREAM, {"text_input": "hi", "stream": False})
    answer = asyncio.run(exchange(servicer, body, {"X-Tenant": "acme"}))
    response = service_pb2.ModelStreamInferResponse.FromString(answer.content)
    assert response.infer_response.raw_output_contents[0].endswith(b"ab")
    assert servicer.metadata[0]["x-tenant"] == "acme"
    assert servicer.requests[0].model_name == "ensemble_stream"
