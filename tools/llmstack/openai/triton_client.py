"""Calls Triton over gRPC: every request is a stream of `ensemble_stream`, also when one response is wanted.

Triton notices a cancelled call only for streams. Then the engine's slot is free at once, so a client that goes away
from a unary request costs no more than one that goes away from a stream. A server without `ensemble_stream`, whose
engine runs inside tritonserver, answers by `ensemble`.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import grpc
from tritonclient.grpc import service_pb2

from llm_policy.triton.tensors import ENSEMBLE_INPUTS

ENSEMBLE, ENSEMBLE_STREAM = "ensemble", "ensemble_stream"
_INFER, _STREAM_INFER, _READY = (
    f"/inference.GRPCInferenceService/{method}" for method in ("ModelInfer", "ModelStreamInfer", "ServerReady")
)
READY_TIMEOUT_S = 5.0
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),  # a proxy from the environment is meant for external hosts
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", 64 << 20),
)
_OUTPUTS = (
    *("text_output", "num_output_tokens", "output_log_probs", "finish_reason", "cost_usd", "resolved_schema_id"),
    *("schema_valid", "flags", "queue_delay_us", "num_input_tokens"),
)
_UNKNOWN_MODEL = "Request for unknown model"
_TYPES = {spec.name: spec.data_type.removeprefix("TYPE_").replace("STRING", "BYTES") for spec in ENSEMBLE_INPUTS}
_FORMATS = {"BOOL": "?", "INT32": "i", "INT64": "q", "UINT64": "Q", "FP32": "f", "FP64": "d"}

Metadata = Sequence[tuple[str, str]]


class _Server(NamedTuple):
    """The calls of one server."""

    channel: Any
    whole: Any
    pieces: Any
    infer: Any
    ready: Any


class TritonError(Exception):
    """A model or Triton itself answered with this text."""


class _NoStreamModel(TritonError):
    """The server has no `ensemble_stream`."""


class Unreachable(Exception):
    """The server does not answer, or the connection to it broke."""


class Piece(NamedTuple):
    """One response: its outputs by name. The last one has all outputs of `ensemble`."""

    outputs: Mapping[str, Sequence[Any]]
    is_last: bool

    @property
    def text(self) -> str:
        """The new text."""
        return str(self.first("text_output") or "")

    @property
    def num_tokens(self) -> int:
        """The number of completion tokens so far."""
        return int(self.first("num_output_tokens") or 0)

    @property
    def log_probs(self) -> Sequence[float]:
        """The log-probabilities of the new tokens; empty if they were not asked for."""
        return self.outputs.get("output_log_probs", ())

    def first(self, name: str) -> Any:
        """The first value of an output; None if the output is missing or empty."""
        return next(iter(self.outputs.get(name, ())), None)


class TritonServers:
    """Connections to one or several servers, which take requests in turn. Belongs to one event loop."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._servers = [_connect(address) for address in addresses]
        self._next = count()

    async def close(self) -> None:
        """Close the connections, and with them what is open."""
        for server in self._servers:
            await server.channel.close()

    async def is_ready(self) -> bool:
        """Whether one of the servers is ready."""
        for server in self._servers:
            with contextlib.suppress(grpc.RpcError):
                answer = await server.ready(service_pb2.ServerReadyRequest(), timeout=READY_TIMEOUT_S)
                if answer.ready:
                    return True
        return False

    async def answer(self, inputs: Mapping[str, Any], metadata: Metadata) -> Piece:
        """The whole answer of one request; cancelling the task cancels the request.

        Raises:
            TritonError: the request was rejected or failed.
            Unreachable: the connection failed.
        """
        server = self._choose()
        request = serialize_request(ENSEMBLE_STREAM, {**inputs, "stream": False})
        try:
            response = await server.whole(request, metadata=metadata)
            return Piece(_outputs(_checked(response)), True)
        except _NoStreamModel:
            return await _infer(server, inputs, metadata)
        except grpc.RpcError as error:
            raise _call_error(error) from None

    async def stream(self, inputs: Mapping[str, Any], metadata: Metadata) -> AsyncGenerator[Piece, None]:
        """The pieces of one answer; closing the iterator cancels the request.

        Raises:
            TritonError: the request was rejected or failed.
            Unreachable: the connection failed.
        """
        server = self._choose()
        call = server.pieces(serialize_request(ENSEMBLE_STREAM, {**inputs, "stream": True}), metadata=metadata)
        is_begun = is_last = False
        try:
            while not is_last:
                outputs = _outputs(_checked(await call.read()))
                is_begun, is_last = True, bool(outputs.get("is_last", (False,))[0])
                if is_last:  # the call ends now; if it is cancelled instead, Triton 2.51 waits for it when it stops
                    await call.code()
                yield Piece(outputs, is_last)
        except _NoStreamModel:
            if is_begun:
                raise
            yield await _infer(server, inputs, metadata)
        except grpc.RpcError as error:
            raise _call_error(error) from None
        finally:
            call.cancel()

    def _choose(self) -> _Server:
        """The next server; one whose connection fails is passed over while there is another."""
        first = next(self._next) % len(self._servers)
        order = self._servers[first:] + self._servers[:first]
        failing = grpc.ChannelConnectivity.TRANSIENT_FAILURE
        connected = (server for server in order if server.channel.get_state(try_to_connect=True) is not failing)
        return next(connected, order[0])


def _connect(address: str) -> _Server:
    channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
    # The protocol allows many requests and responses in one call. With one request, it and its end travel together.
    # With one response too, the whole call is a single operation of gRPC's core instead of one for each message.
    whole, pieces = (
        make(_STREAM_INFER, response_deserializer=service_pb2.ModelStreamInferResponse.FromString)
        for make in (channel.unary_unary, channel.unary_stream)
    )
    infer = channel.unary_unary(_INFER, response_deserializer=service_pb2.ModelInferResponse.FromString)
    ready = channel.unary_unary(
        _READY,
        request_serializer=service_pb2.ServerReadyRequest.SerializeToString,
        response_deserializer=service_pb2.ServerReadyResponse.FromString,
    )
    return _Server(channel, whole, pieces, infer, ready)


async def _infer(server: _Server, inputs: Mapping[str, Any], metadata: Metadata) -> Piece:
    try:
        return Piece(_outputs(await server.infer(serialize_request(ENSEMBLE, inputs), metadata=metadata)), True)
    except grpc.RpcError as error:
        raise _call_error(error) from None


def _checked(response: Any) -> Any:
    """What the model answered, of a response of the stream."""
    if response is None or response is grpc.aio.EOF:
        raise Unreachable("the stream ended before its last response")
    if message := response.error_message:
        raise _NoStreamModel(message) if message.startswith(_UNKNOWN_MODEL) else TritonError(message)
    return response.infer_response


def _call_error(error: Any) -> Exception:
    """The error of a call that ended with a status. Only UNAVAILABLE without a text of the policy is the connection."""
    text = error.details() or ""
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED) and "in ensemble" not in text:
        return Unreachable(text or "the connection broke")
    return TritonError(text)


def serialize_request(model: str, inputs: Mapping[str, Any]) -> bytes:
    """A serialized request. Serialized messages that follow one another are one message, so most of it is ready."""
    parts, contents = [_request_head(model)], []
    for name, value in inputs.items():
        values = value if isinstance(value, list) else [value]
        parts.append(_input_head(name, len(values)))
        contents.append(_encode(_TYPES[name], values))
    parts.append(service_pb2.ModelInferRequest(raw_input_contents=contents).SerializeToString())
    return b"".join(parts)


@lru_cache
def _request_head(model: str) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name in (*_OUTPUTS, "is_last") if model == ENSEMBLE_STREAM else _OUTPUTS:
        request.outputs.add(name=name)
    return bytes(request.SerializeToString())


@lru_cache
def _input_head(name: str, num_values: int) -> bytes:
    request = service_pb2.ModelInferRequest()
    request.inputs.add(name=name, datatype=_TYPES[name], shape=[1, num_values])
    return bytes(request.SerializeToString())


def _encode(data_type: str, values: Sequence[Any]) -> bytes:
    if data_type != "BYTES":
        return struct.pack(f"<{len(values)}{_FORMATS[data_type]}", *values)
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def _outputs(response: Any) -> dict[str, Sequence[Any]]:
    return {
        output.name: _decode(output.datatype, raw)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def _decode(data_type: str, raw: bytes) -> Sequence[Any]:
    if data_type != "BYTES":
        form = _FORMATS[data_type]
        return struct.unpack(f"<{len(raw) // struct.calcsize(form)}{form}", raw)
    texts, offset = [], 0
    while offset < len(raw):
        (length,) = struct.unpack_from("<I", raw, offset)
        offset += 4 + length
        texts.append(raw[offset - length : offset].decode("utf-8", "replace"))
    return texts
