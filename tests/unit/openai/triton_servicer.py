"""A small gRPC server that speaks Triton's protocol and answers as it is told."""

from __future__ import annotations

import asyncio
import struct

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc


def text_response(text, is_last):
    response = service_pb2.ModelInferResponse()
    raw = text.encode()
    response.outputs.add(name="text_output", datatype="BYTES", shape=[1])
    response.raw_output_contents.append(struct.pack("<I", len(raw)) + raw)
    if is_last is not None:
        response.outputs.add(name="is_last", datatype="BOOL", shape=[1])
        response.raw_output_contents.append(bytes([is_last]))
    return response


def wants_stream(request):
    raw = dict(zip((each.name for each in request.inputs), request.raw_input_contents, strict=True))
    return raw["stream"] == b"\x01"


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers with `pieces`, as one if no stream is wanted, or with an error; remembers what it received."""

    def __init__(self, pieces=(), error="", has_stream_model=True):
        self.pieces, self.error, self.has_stream_model = pieces, error, has_stream_model
        self.requests, self.metadata, self.cancelled = [], [], asyncio.Event()

    async def ModelStreamInfer(self, requests, context):
        self.metadata.append(dict(context.invocation_metadata()))
        async for request in requests:
            self.requests.append(request)
            if not self.has_stream_model:
                message = "Request for unknown model: 'ensemble_stream' is not found"
                yield service_pb2.ModelStreamInferResponse(error_message=message)
                return
            for text, is_last in self.pieces if wants_stream(request) else self.joined():
                yield service_pb2.ModelStreamInferResponse(infer_response=text_response(text, is_last))
            if self.error:
                yield service_pb2.ModelStreamInferResponse(error_message=self.error)
        if not any(is_last for _, is_last in self.pieces) and not self.error and self.pieces:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()

    def joined(self):
        return [("".join(text for text, _ in self.pieces), True)] if any(is_last for _, is_last in self.pieces) else []

    async def ModelInfer(self, request, context):
        self.requests.append(request)
        if self.error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.error)
        return text_response("whole", None)
